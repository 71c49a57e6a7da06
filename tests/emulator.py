"""Google Cloud Storage in this process, of which a test can say what it refuses."""

import contextlib
import logging
import threading
from functools import partial
from http.server import HTTPServer
from urllib.parse import parse_qs, urlparse

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.handlers.objects import _checksums, _make_object_resource
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

for name in ("gcp_storage_emulator", "api"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


class Handler(RequestHandler):
    """The emulator's, which knows no preconditions, with ifGenerationMatch of uploads and removals."""

    def __init__(self, emulator, *arguments):
        self.emulator = emulator
        super().__init__(emulator.storage, *arguments)

    def do_POST(self):
        if not self.refused():
            super().do_POST()

    def do_PUT(self):
        if not self.refused():
            super().do_PUT()

    def do_DELETE(self):
        if not self.refused():
            super().do_DELETE()

    def refused(self):
        """Whether it has been answered with an error."""
        self.emulator.asked.append((self.command, self.path))
        if self.emulator.read_only:
            return self.answer(403, "me@example.com does not have storage.objects.create access")
        place = urlparse(self.path)
        asked = parse_qs(place.query)
        if "ifGenerationMatch" in asked:
            bucket = place.path.partition("/b/")[2].partition("/")[0]
            key = asked.get("name", [place.path.partition("/o/")[2].replace("%2F", "/")])[0]
            found = self.emulator.storage.objects.get(bucket, {}).get(key, {"generation": "0"})
            if found["generation"] != asked["ifGenerationMatch"][0]:
                return self.answer(412, "conditionNotMet")
        return False

    def answer(self, code, message):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = f'{{"error": {{"code": {code}, "message": "{message}"}}}}'.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True


class Server(HTTPServer):
    """It bears with clients that hang up."""

    def handle_error(self, *_):
        pass


class Emulator:
    """One bucket, named `bucket`; `asked` are the requests that write or remove."""

    def __init__(self):
        self.storage = Storage(use_memory_fs=True)
        create_bucket("bucket", self.storage)
        self.read_only = False
        self.asked = []
        self.port = 0
        self.start()

    def start(self):
        """Answers again, at the address as before."""
        self.server = Server(("127.0.0.1", self.port), partial(Handler, self))
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def stop(self):
        """Answers no more; what it holds stays."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def names(self, prefix=""):
        """Of all objects that begin so."""
        return sorted(
            name for name in self.storage.objects.get("bucket", {}) if name.startswith(prefix)
        )

    def put(self, name, content):
        resource = _make_object_resource(
            "", "bucket", name, "application/octet-stream", str(len(content))
        )
        self.storage.create_file("bucket", name, content, _checksums(content, resource))

    def content(self, name):
        return self.storage.get_file("bucket", name)


@contextlib.contextmanager
def running():
    """An emulator, as the environment names it to gcsfs."""
    emulator = Emulator()
    try:
        yield emulator
    finally:
        emulator.stop()
