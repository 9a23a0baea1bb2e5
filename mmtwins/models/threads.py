"""How many threads compute on a CPU whose cores other processes use too.

PyTorch shares each of some hundred operators of a backbone among its threads, and an operator ends with the last of them. If
another process has the core of one thread, all others wait for it, a time slice of the system at each operator. So the fast
path changes the number of threads, and gives PyTorch its own number back at the end of a forward or backward pass:

- As many threads as others leave cores free, at most as many as PyTorch has.
- If others still want more than half of the cores after a second, twice as many threads as there are cores. With more threads
  than cores, the OpenMP library of PyTorch's Linux wheels (libgomp) lets a thread that waits sleep at once. Otherwise it spins,
  and uses up the time of those that compute. If PyTorch has fewer threads than there are cores, or another OpenMP library,
  this is not done.

Two processes that compute with mmtwins settle for half of the cores each. If further processes have made both take more
threads, they keep them until one of them pauses.

It keeps the number of PyTorch with the environment variable ``MMTWINS_KEEP_THREADS=1``, in :func:`kept_threads`, with
deterministic algorithms, outside the main thread, where OpenMP binds threads to cores (``OMP_PROC_BIND`` and others), and
where the system has no ``/proc/stat``.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import Variable

WINDOW = 0.2  # seconds; the system counts in ticks of 0.01
# Windows, in a row or nearly, before there are more threads than cores. By then, another mmtwins has taken fewer threads, too.
PATIENCE = 5
# Variables with which OpenMP binds each thread to a core. Such a thread cannot leave a core that another process uses.
BINDING = ('OMP_PROC_BIND', 'OMP_PLACES', 'GOMP_CPU_AFFINITY', 'KMP_AFFINITY')
PAUSE = 1.0  # seconds without computing, after which what was before does not count

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


def read_waits() -> dict[str, float]:
    """Seconds that each thread of this process has waited for a core; empty where the system does not say."""
    waits = {}
    with suppress(OSError):
        for thread in os.listdir('/proc/self/task'):
            with suppress(OSError), open(f'/proc/self/task/{thread}/schedstat') as file:  # it may have ended meanwhile
                waits[thread] = int(file.read().split()[1]) / 1e9
    return waits


@cache
def sleeps_if_crowded() -> bool:
    """Whether the OpenMP library is the one whose threads sleep, instead of spinning, if there are more than cores."""
    try:
        libraries = Path('/proc/self/maps').read_text()
    except OSError:
        return False
    return 'libgomp' in libraries and 'libiomp' not in libraries and 'libomp' not in libraries


class OtherProcesses:
    """How many cores other processes take and want, by processor time while this one computes.

    Cores are shared evenly: if we get half of the time that we could use, the others get half of what they want.

    Args:
        read_used: As :func:`read_used`.
        clock: Seconds.
        own_time: Seconds of processor time of this process.
        own_waits: As :func:`read_waits`.
    """

    def __init__(
        self,
        read_used: Callable[[set[int]], float | None] = read_used,
        clock: Callable[[], float] = time.monotonic,
        own_time: Callable[[], float] = time.process_time,
        own_waits: Callable[[], dict[str, float]] = read_waits,
    ) -> None:
        self._read_used, self._clock, self._own_time, self._own_waits = read_used, clock, own_time, own_waits
        # Of the window: time, processor time of all, our own, and what each of our threads has waited.
        self._begin: tuple[float, float, float, dict[str, float]] | None = None
        self._cores: int | None = None
        self._free = 0
        # Windows in which others wanted more than half of the cores, less those in which they did not.
        self._crowded = 0

    def threads_beside(self, asked: int) -> int:
        """How many threads are fastest beside the others, where PyTorch has ``asked``."""
        now = self._clock()
        if self._begin is None or now - self._begin[0] >= WINDOW:
            self._measure(now)
        if self._cores is None:
            return asked
        if self._crowded >= PATIENCE and asked >= self._cores and sleeps_if_crowded():
            return max(asked, 2 * self._cores)
        return min(asked, max(1, self._free))

    def _measure(self, now: float) -> None:
        cores = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else set()
        used = self._read_used(cores) if cores else None
        if used is None:
            self._begin, self._cores = (now, 0.0, 0.0, {}), None
            return
        own, waits = self._own_time(), self._own_waits()
        if self._begin is None or self._cores is None:
            self._free = len(cores)
        else:
            begin, used_before, own_before, waits_before = self._begin
            seconds = now - begin
            we_took, all_took = (own - own_before) / seconds, (used - used_before) / seconds
            we_waited = sum(max(0.0, wait - waits_before.get(name, 0.0)) for name, wait in waits.items()) / seconds
            if we_took > 0 and we_took + we_waited >= 0.5:
                others_took = all_took - we_took
                wanted = round(others_took * (we_took + we_waited) / we_took)
                # We wait, and for cores that are all in use, not for a quota of a container.
                is_crowded = we_waited > 0.1 * we_took and all_took > 0.8 * len(cores) and 2 * wanted > len(cores)
                self._free = round(len(cores) - others_took)
                self._crowded = max(0, min(self._crowded + (1 if is_crowded else -1), 2 * PATIENCE))
            elif seconds >= PAUSE:
                self._free, self._crowded = len(cores), 0
            # Else we did not compute, and what the others did slowed down nobody.
        self._begin, self._cores = (now, used, own, waits), len(cores)


_others = OtherProcesses()


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
    """Compute a forward pass with as many threads as are fastest beside other processes; :func:`fit` looks again.

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
    """Within a pass: compute with as many threads as are fastest now."""
    if _asked is not None and (fitting := _others.threads_beside(_asked)) != torch.get_num_threads():
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
        and all(os.environ.get(name, '').lower() in ('', 'false', 'none', 'disabled') for name in BINDING)
        and not torch.are_deterministic_algorithms_enabled()
        # A thread that begins meanwhile takes the number over. That of the main thread is the one that a user sets.
        and threading.current_thread() is threading.main_thread()
        and torch.get_num_threads() > 1
    )
