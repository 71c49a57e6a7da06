"""SIGTERM, as schedulers send it before they end a job."""

import signal


class Stop:
    """Notes SIGTERM, so that the loop can save before it ends."""

    asked = False

    def __enter__(self):
        self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_):
        self.asked = True
