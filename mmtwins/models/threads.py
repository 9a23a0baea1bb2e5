"""How many threads compute on a CPU whose cores other processes use too.

PyTorch shares each of some hundred operators of a backbone among its threads, and an operator ends with the last of them. If
another process has the core of one thread, all others wait for it, a time slice of the system at each operator. Then fewer
threads are faster. The fast path computes with as many as there are free cores, at most as many as PyTorch has, and
gives PyTorch its own number back at the end of a forward or backward pass.

It keeps the number of PyTorch with the environment variable ``MMTWINS_KEEP_THREADS=1``, in :func:`kept_threads`, with
deterministic algorithms, outside the main thread, and where the system has no ``/proc/stat``.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import Variable

WINDOW = 0.2  # seconds; the system counts in ticks of 0.01

_asked: int | None = None  # threads of PyTorch before the pass that has changed their number
_keeping = 0  # how many kept_threads() are entered


def read_used(cores: set[int]) -> float | None:
    """Seconds of processor time that all processes have taken on these cores; None where the system does not say."""
    try:
        lines = Path('/proc/stat').read_text().splitlines()
    except OSError:
        return None
    ticks = 0
    for name, *fields in map(str.split, lines):
        if name.startswith('cpu') and name[3:].isdigit() and int(name[3:]) in cores:
            # Neither idle nor waiting for a disk.
            user, nice, system, _, _, interrupts, soft_interrupts = map(int, fields[:7])
            ticks += user + nice + system + interrupts + soft_interrupts
    return ticks / os.sysconf('SC_CLK_TCK')


class FreeCores:
    """How many cores other processes leave free, by the processor time that they take while this one computes.

    Args:
        read_used: As :func:`read_used`.
        clock: Seconds.
        own_time: Seconds of processor time of this process.
    """

    def __init__(
        self,
        read_used: Callable[[set[int]], float | None] = read_used,
        clock: Callable[[], float] = time.monotonic,
        own_time: Callable[[], float] = time.process_time,
    ) -> None:
        self._read_used, self._clock, self._own_time = read_used, clock, own_time
        self._begin: tuple[float, float, float] | None = None  # of the window: time, processor time of all, and our own
        self._free: int | None = None

    def limit(self, threads: int) -> int:
        """As many threads as there are free cores, but at least one, and at most ``threads``."""
        now = self._clock()
        if self._begin is None or now - self._begin[0] >= WINDOW:
            self._measure(now)
        return threads if self._free is None else max(1, min(threads, self._free))

    def _measure(self, now: float) -> None:
        cores = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set()
        used = self._read_used(cores) if cores else None
        if used is None:
            self._begin, self._free = (now, 0.0, 0.0), None
            return
        own = self._own_time()
        if self._free is None:
            self._free = len(cores)
        if self._begin is not None:
            seconds, all_took, we_took = now - self._begin[0], used - self._begin[1], own - self._begin[2]
            if we_took >= seconds / 2:  # else we waited, and what the others did then slows down nobody
                self._free = round(len(cores) - (all_took - we_took) / seconds)
        self._begin = now, used, own


_free_cores = FreeCores()


@contextmanager
def kept_threads() -> Iterator[None]:
    """Keep the number of threads of PyTorch, whatever other processes do: with another, sums of gradients round differently."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1


@contextmanager
def fitting_threads(x: Tensor) -> Iterator[None]:
    """Compute a forward pass with as many threads as there are free cores; :func:`fit` looks again.

    Args:
        x: The input.
    """
    global _asked
    _restore()  # after a backward pass that failed
    if not _may_fit() or type(x) is not Tensor or x.device.type != 'cpu':
        yield
        return
    _asked = torch.get_num_threads()
    fit()
    try:
        yield
    finally:
        _restore()


def fit() -> None:
    """Within a pass: compute with as many threads as there are free cores now."""
    if _asked is not None and (fitting := _free_cores.limit(_asked)) != torch.get_num_threads():
        torch.set_num_threads(fitting)


def fit_backward() -> None:
    """In the backward pass of a function: as :func:`fit`, to the end of the whole backward pass."""
    global _asked
    if _asked is None and _may_fit():
        _asked = torch.get_num_threads()
        Variable._execution_engine.queue_callback(_restore)
    fit()


def _restore() -> None:
    global _asked
    if _asked is not None and _asked != torch.get_num_threads():
        torch.set_num_threads(_asked)
    _asked = None


def _may_fit() -> bool:
    return (
        not _keeping
        and os.environ.get('MMTWINS_KEEP_THREADS') != '1'
        and not torch.are_deterministic_algorithms_enabled()
        # A thread that begins meanwhile takes the number over. That of the main thread is the one that a user sets.
        and threading.current_thread() is threading.main_thread()
        and torch.get_num_threads() > 1
    )
