"""Run the tools in processes that end with this one."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .tasks import DemoError

# Spinning OpenMP threads take cores from other processes: training is up to seven times slower beside two busy processes on
# two cores. No spinning at all halves the speed on an idle machine.
ENVIRONMENT = {'GOMP_SPINCOUNT': '10000', **os.environ, 'PYTHONUNBUFFERED': '1'}
LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None


@contextlib.contextmanager
def child_process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Run a command with its output in a log file. It ends with this process, even if that is killed."""
    parent = os.getpid()

    def end_with_parent() -> None:
        assert LIBC is not None
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    with log.open('ab') as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=end_with_parent if LIBC else None,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_script(script: Path, arguments: list[str], log: Path, report: Callable[[], None] = lambda: None) -> None:
    """Run a Python script in a process.

    Args:
        script: File.
        arguments: Of its command line.
        log: File that its output is added to.
        report: Called twice a second.

    Raises:
        DemoError: The script failed.
    """
    with child_process([sys.executable, str(script), *arguments], log) as process:
        while process.poll() is None:
            report()
            time.sleep(0.5)
        report()
    if process.returncode:
        tail = '\n'.join(log.read_text(errors='replace').splitlines()[-8:])
        raise DemoError(f'{script.name} ended with exit code {process.returncode}; the end of {log}:\n{tail}')
