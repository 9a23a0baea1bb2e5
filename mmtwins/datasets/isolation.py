"""Run functions on untrusted files in child processes, so that a crash or a hang ends only the child."""

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, NamedTuple

FORK = multiprocessing.get_context('fork')
STOP = '__stop__'


class Outcome(NamedTuple):
    """The result of one call: its value, or the failure in words."""

    value: Any = None
    failure: str = ''


@dataclass
class _Task:
    child: ForkProcess
    index: int
    deadline: float


def run_isolated(function: Callable[[Any], Any], argument: Any, seconds: float) -> Outcome:
    """Call a function in a child process.

    Args:
        function: The function; it need not be picklable, because the child is forked. What it returns must be.
        argument: Its only argument, picklable.
        seconds: Time limit.

    Returns:
        The value, or the ``failure``: an exception's type and message, a signal, or that the time limit was exceeded.
    """
    ((_, outcome),) = map_isolated(function, [argument], workers=1, seconds=seconds)
    return outcome


def map_isolated(
    function: Callable[[Any], Any], items: Iterable[Any], workers: int, seconds: float
) -> Iterator[tuple[int, Outcome]]:
    """Call a function on each item in child processes. If a process dies or hangs, only its current item is lost.

    Args:
        function: Called with an item, see :func:`run_isolated`.
        items: All items.
        workers: Number of processes.
        seconds: Time limit of one item.

    Yields:
        The item's index and its outcome, in the order in which the calls end.
    """
    waiting = enumerate(items)
    tasks: dict[Connection, _Task] = {}

    def start() -> None:
        for index, item in waiting:
            ours, theirs = FORK.Pipe()
            child = FORK.Process(target=_serve, args=(function, theirs, [ours, *tasks]), daemon=True)
            child.start()
            theirs.close()  # so that its death is seen as the end of the stream
            ours.send(item)
            tasks[ours] = _Task(child, index, time.monotonic() + seconds)
            return

    with _without_threads_of_opencv():
        yield from _run(start, workers, tasks, waiting, seconds)


@contextmanager
def _without_threads_of_opencv() -> Iterator[None]:
    """Switch off OpenCV's threads: a forked process does not have those of its parent, and would wait for them for ever."""
    opencv = sys.modules.get('cv2')
    before = opencv.getNumThreads() if opencv else 0
    if opencv:
        opencv.setNumThreads(0)
    try:
        yield
    finally:
        if opencv:
            opencv.setNumThreads(before)


def _run(
    start: Callable[[], None], workers: int, tasks: 'dict[Connection, _Task]', waiting: Iterator, seconds: float
) -> Iterator[tuple[int, Outcome]]:
    """Start children, give each its next item when it has answered, and end those that do not answer in time."""
    try:
        for _ in range(max(workers, 1)):
            start()
        while tasks:
            left = min(task.deadline for task in tasks.values()) - time.monotonic()
            ready = wait(list(tasks), timeout=max(left, 0))
            late = [one for one, task in tasks.items() if one not in ready and task.deadline <= time.monotonic()]
            for connection in [*ready, *late]:
                assert isinstance(connection, Connection)
                task = tasks.pop(connection)
                outcome = _collect(connection, task.child, seconds, is_late=connection in late)
                following = next(waiting, None) if task.child.is_alive() else None
                if following is not None:
                    connection.send(following[1])
                    tasks[connection] = _Task(task.child, following[0], time.monotonic() + seconds)
                elif task.child.is_alive():
                    _stop(connection, task.child)
                else:
                    connection.close()
                    start()
                yield task.index, outcome
    finally:
        for connection, task in tasks.items():
            task.child.kill()
            task.child.join()
            connection.close()


def _collect(connection: Connection, child: ForkProcess, seconds: float, is_late: bool) -> Outcome:
    """Get the outcome of a child's item; if there is none, the child has ended afterwards."""
    if is_late:
        child.kill()
        child.join()
        return Outcome(failure=f'takes more than {seconds:g} s')
    try:
        return Outcome(*connection.recv())
    except (EOFError, OSError):
        child.join()
        code = child.exitcode or 0
        cause = signal.Signals(-code).name if code < 0 else f'exit code {code}'
        return Outcome(failure=f'ends the process that reads it ({cause})')


def _stop(connection: Connection, child: ForkProcess) -> None:
    connection.send(STOP)
    child.join()
    connection.close()


def _serve(function: Callable, theirs: Connection, others: list[Connection]) -> None:
    """The child: answer until it is told to stop, or until the parent is gone."""
    gc.freeze()  # what we got from the parent is no garbage; searching it would copy all of it
    for connection in others:  # or they would stay open without the parent
        connection.close()
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # decoders print about damaged files
        os.dup2(silence, stream)
    if 'torch' in sys.modules:
        sys.modules['torch'].set_num_threads(1)  # the parent's threads are not here
    sys.stdout = sys.stderr = os.fdopen(silence, 'w')
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    while True:
        try:
            item = theirs.recv()
        except (EOFError, OSError):
            os._exit(0)
        if isinstance(item, str) and item == STOP:
            os._exit(0)
        try:
            answer = (function(item), '')
        except BaseException as error:
            answer = (None, f'{type(error).__name__}: {error}')
        theirs.send(answer)
