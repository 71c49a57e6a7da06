"""SIGTERM, as schedulers send it before they end a job."""

import signal

import jax

from knn_jax import mesh


class Stop:
    """Notes SIGTERM, so that the loop can save before it ends; several processes leave together.

    Each step is given every process's `asked` and returns whether any is true.
    """

    asked = False

    def __init__(self):
        self.told: list[jax.Array] = []

    def after(self, told: jax.Array) -> bool:
        """Whether this step is the last, given what it returned of all processes.

        What one process alone was asked counts at once. Of several it counts one step later, so that
        nobody waits for the devices.
        """
        if mesh.alone():
            return self.asked
        self.told.append(told)
        return len(self.told) > 1 and bool(self.told.pop(0))

    def __enter__(self):
        self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.before)

    def _ask(self, *_):
        self.asked = True
