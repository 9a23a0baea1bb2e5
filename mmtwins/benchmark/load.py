"""Busy processes beside a measurement, as on a machine that does other work."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends when the process that started it is gone, even if that was killed.
BUSY = 'import os\nparent = os.getppid()\nprint(flush=True)\nwhile os.getppid() == parent:\n    sum(range(10_000))'


@contextmanager
def busy_processes(number: int) -> Iterator[list[subprocess.Popen]]:
    """Keep a core busy with each of so many processes, inside a ``with`` statement.

    Args:
        number: Of processes; they have begun when the body begins, and have ended when it is left.
    """
    started: list[subprocess.Popen] = []
    try:
        for _ in range(number):
            started.append(
                subprocess.Popen([sys.executable, '-c', BUSY], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            )
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
