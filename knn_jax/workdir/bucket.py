"""Objects in Google Cloud Storage, each read, written or removed whole; what fails is one line."""

import contextlib
import functools
import importlib.util
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from etils import epath

if TYPE_CHECKING:
    from gcsfs.core import GCSFileSystem

SCHEME = "gs://"
HURRY = 10  # seconds for the first answer; later gcsfs tries again for half a minute
SILENCE = 300  # seconds without a byte after which a request is made anew
SMALL = 5 * 2**20  # bytes that one request uploads; of more gcsfs uploads parts, joined at the end
AT_ONCE = 8  # requests
T = TypeVar("T")
R = TypeVar("R")


class Unreachable(ValueError):
    """The store refuses or is silent, which says nothing of what it holds."""


def place(what: str, text: str) -> epath.Path:
    """The place of that name, `what` it is for; ValueError without a bucket, or without gcsfs."""
    if not re.match(r"gs://[^/]+", text):
        raise ValueError(f"{what}={text!r}: give gs://BUCKET/PATH")
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(f"{what}={text!r} needs gcsfs: pip install 'knn_jax[gcs]'")
    return epath.Path(text)


def read(at: epath.Path) -> bytes | None:
    """The content of an object, None if there is none."""
    with _asking(at, "read"), contextlib.suppress(FileNotFoundError):
        return cast(bytes, client().cat_file(str(at)))


def write(at: epath.Path, content: bytes, generation: str | None = None) -> str | None:
    """Writes an object and returns its generation; None, and nothing is written, where a `generation`
    is given and the object has another ("0": where there is one)."""
    bucket, key = _split(at)
    only = {} if generation is None else {"ifGenerationMatch": generation}
    store = client()
    uploads = store.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
    with _asking(at, "written"), contextlib.suppress(FileExistsError):
        asked = {"uploadType": "media", "name": key, "data": content, "json_out": True}
        found = cast(dict[str, str], store.call("POST", uploads, bucket, **asked, **only))
        return found["generation"]


def upload(file: Path, at: epath.Path) -> None:
    """Writes an object with the content of a local file."""
    if file.stat().st_size < SMALL:
        write(at, file.read_bytes())
        return
    with _asking(at, "written"):
        client().put_file(str(file), str(at))


def download(at: epath.Path, file: Path) -> None:
    """Writes a local file with the content of an object, which must be there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _asking(at, "read"):
            client().get_file(str(at), str(file))
    except FileNotFoundError as error:
        raise Unreachable(f"{at} cannot be read: it is gone") from error


def generation(at: epath.Path) -> str | None:
    """A number that changes whenever the object is written; None if there is none."""
    bucket, key = _split(at)
    with _asking(at, "read"), contextlib.suppress(FileNotFoundError):
        found = client().call("GET", "b/{}/o/{}", bucket, key, json_out=True)
        return cast(dict[str, str], found)["generation"]


def exists(at: epath.Path) -> bool:
    """Whether there is such an object, or one below it."""
    with _asking(at, "read"):
        return client().exists(str(at), timeout=HURRY)


def below(folder: epath.Path) -> list[str]:
    """The names of all objects below a place, relative to it."""
    bucket, key = _split(folder)
    prefix = f"{bucket}/{key}".rstrip("/") + "/"
    with _asking(folder, "read"), contextlib.suppress(FileNotFoundError):
        return [name.removeprefix(prefix) for name in client().find(str(folder))]
    return []


def remove(at: epath.Path, generation: str | None = None, patience: float | None = None) -> None:
    """Removes an object if there is one, and if it has that generation; tries for so many seconds."""
    bucket, key = _split(at)
    only = {} if generation is None else {"ifGenerationMatch": generation}
    with _asking(at, "removed"), contextlib.suppress(FileNotFoundError, FileExistsError):
        client().call("DELETE", "b/{}/o/{}", bucket, key, **only, timeout=patience)


def copy(at: epath.Path, to: epath.Path) -> None:
    """Writes an object with the content of another."""
    with _asking(to, "written"):
        client().cp_file(str(at), str(to))


def each(do: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`do` of all items, several at once, for a store is slow to answer and fast to send."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(do, items))


def check_writable(folder: epath.Path) -> None:
    """Raises ValueError, soon, where nothing can be written or removed; leaves nothing."""
    probe = folder / f".{secrets.token_hex(8)}.scratch"
    try:
        exists(probe)  # in a hurry
        write(probe, b"probe")
        remove(probe)
    except Unreachable as error:
        raise Unreachable(f"{error}".replace(f"{probe}", f"{folder}")) from error


@functools.cache
def client() -> "GCSFileSystem":
    """gcsfs, which keeps no listings, for other processes write too.

    It is the plain one: that of `fsspec.filesystem` first asks for the kind of each bucket, by another
    protocol, which no emulator speaks. An emulator is asked without credentials, for it has none.
    """
    import aiohttp  # half a second with gcsfs, and only wanted here
    from gcsfs.core import GCSFileSystem

    log = logging.getLogger("gcsfs")
    if log.level == logging.NOTSET:  # it would tell each error that it raises, which is a line of ours
        log.setLevel(logging.CRITICAL)
    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
    limits = aiohttp.ClientTimeout(total=None, sock_connect=HURRY, sock_read=SILENCE)
    return GCSFileSystem(token=token, use_listings_cache=False, requests_timeout=limits)


def _split(at: epath.Path) -> tuple[str, str]:
    """Bucket and name of an object."""
    bucket, _, key = str(at).removeprefix(SCHEME).partition("/")
    return bucket, key


@contextlib.contextmanager
def _asking(at: epath.Path, done: str) -> Iterator[None]:
    """What fails in gcsfs, aiohttp and Google's libraries as one line; absence is the caller's."""
    try:
        yield
    except FileNotFoundError as error:
        if done == "written":
            bucket, _ = _split(at)
            raise Unreachable(f"{at} cannot be written: there is no bucket {SCHEME}{bucket}") from error
        raise
    except FileExistsError:
        raise
    except Exception as error:
        raise Unreachable(f"{at} cannot be {done}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """What the store said."""
    if isinstance(error, TimeoutError):
        host = client().base.partition("/storage/v1")[0]
        return f"no answer from {host}: no network, or credentials that have expired"
    text = f"{error}"
    if text.startswith("Forbidden: "):
        text = text.partition("\n")[2] or "forbidden"
    text = " ".join(text.split()).rstrip(".") or type(error).__name__
    if getattr(error, "code", None) == 401:
        text += "; log in, gcloud auth application-default login"
    return text
