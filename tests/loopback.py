"""Two processes on this machine that find each other by a port."""

import os
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Started:
    """Processes, one for each command; `logs` are what each of them wrote. They end with the block."""

    def __init__(self, folder, commands, **environment):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        self.logs = [folder / f"{number}.log" for number in range(len(commands))]
        self.processes = []
        for command, log in zip(commands, self.logs, strict=True):
            with log.open("w") as out:
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def ends(self, seconds=400):
        """(exit code, output) of each."""
        codes = [process.wait(timeout=seconds) for process in self.processes]
        return [(code, log.read_text()) for code, log in zip(codes, self.logs, strict=True)]

    def wait_for(self, there, seconds=300):
        end = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < end, self.logs[0].read_text()
            time.sleep(0.1)
