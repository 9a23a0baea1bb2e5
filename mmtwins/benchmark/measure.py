"""Time and memory of Twins-SVT here and in mmseg, mmpretrain and timm, with equal weights."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from ..models.backbone import TwinsSVTBackbone
from .load import busy_processes
from .products import Rate, fastest_product, product_steps
from .steps import make_step
from .task import Task, Timing

WARM_UP_ROUNDS = 2
NO_ROOM = 'does not fit into memory'
Name = TypeVar('Name')


def time_in_turn(
    steps: Mapping[Name, Callable[[], object]], rounds: int, synchronize: Callable[[], object] = lambda: None
) -> dict[Name, tuple[float, ...]]:
    """Run functions in turn, A B C A B C, so that what else the machine does falls on all of them alike.

    Args:
        steps: Functions by name.
        rounds: How often to time each, after two rounds to warm up.
        synchronize: Called before the clock is read.

    Returns:
        Seconds by name, a value per round.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in steps}
    for i in range(WARM_UP_ROUNDS + rounds):
        for name, step in steps.items():
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            if i >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
    return {name: tuple(values) for name, values in seconds.items()}


def measure_time(task: Task, implementations: Sequence[str], rounds: int = 7) -> tuple[list[Timing], Rate]:
    """Time implementations at a task in turn, with equal weights.

    Args:
        task: What to run.
        implementations: Out of :data:`mmtwins.benchmark.peers.OURS` and :data:`mmtwins.benchmark.peers.PEERS`.
        rounds: How often to time each.

    Returns:
        A timing per implementation, and the fastest product of matrices in the precision of the task, in the same rounds.
    """
    torch.manual_seed(0)
    weights = TwinsSVTBackbone(arch=task.arch).state_dict() if task.config is None else None
    steps: dict[Any, Callable[[], object]] = {name: make_step(task, name, weights) for name in implementations}
    products = product_steps(task)
    steps.update(products)
    with busy_processes(task.load):
        seconds = time_in_turn(steps, rounds, partial(synchronize, task.device))
    timings = [Timing(name, task, seconds[name]) for name in implementations]
    return timings, fastest_product({product: seconds[product] for product in products})


def measure_parts(task: Task, rounds: int = 7) -> dict[str, float]:
    """Where the time of our step goes.

    Args:
        task: What to run.
        rounds: How often to run it, after two rounds to warm up.

    Returns:
        Seconds of a step by PyTorch operator, without the operators that it calls; the longest first. On a GPU, seconds
        of its kernels.
    """
    torch.manual_seed(0)
    step = make_step(task, 'mmtwins')
    for _ in range(WARM_UP_ROUNDS):
        step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * task.is_on_gpu
    with profile(activities=activities) as profiler:
        for _ in range(rounds):
            step()
        synchronize(task.device)
    events, kind = profiler.key_averages(), 'self_cpu_time_total'
    if task.is_on_gpu:
        kind = 'self_device_time_total' if hasattr(events[0], 'self_device_time_total') else 'self_cuda_time_total'
    seconds = {event.key: getattr(event, kind) / 1e6 / rounds for event in events}
    # Rounded times of torch 2.1 can be less than those of what an operator calls.
    return dict(sorted(((name, value) for name, value in seconds.items() if value > 0), key=lambda item: -item[1]))


def synchronize(device: str) -> None:
    """Wait for the work of a GPU, so that a clock can be read."""
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def measure_memory(task: Task, implementation: str) -> int | None:
    """Peak memory of one step above the model and its input.

    Args:
        task: What to run.
        implementation: One of :data:`mmtwins.benchmark.peers.OURS` or :data:`mmtwins.benchmark.peers.PEERS`.

    Returns:
        Bytes: resident memory of a fresh process on a CPU, allocated by torch on a GPU in a second step; None where it does
        not fit into the machine's free memory.

    Raises:
        ChildProcessError: The process failed for another reason.
    """
    if task.is_on_gpu:
        return _measure_gpu_memory(task, implementation)
    spec = dict(task=asdict(task), implementation=implementation)
    return peak_in_new_process('mmtwins.benchmark.measure', 'print_memory', spec)


def peak_in_new_process(module: str, function: str, spec: Mapping[str, Any]) -> int | None:
    """Call a function that prints bytes in a fresh process.

    Args:
        module: Where the function is.
        function: Gets the spec as JSON, and prints the bytes last.
        spec: What to measure; ``'implementation'`` names it in errors.

    Returns:
        Bytes; None where it does not fit into the machine's free memory.

    Raises:
        ChildProcessError: The process failed for another reason.
    """
    threads = f'import sys, torch; torch.set_num_threads({torch.get_num_threads()})'
    call = f'from mmtwins import registration; from {module} import {function}; {function}(sys.argv[-1])'
    command = [sys.executable, '-c', f'{threads}; {call}', json.dumps(spec)]
    paths = os.pathsep.join(path for path in sys.path if path)
    # glibc gives blocks from 1 MiB on back at once then, so that what counts is what is in use and not how the heap is cut.
    env = {**os.environ, 'PYTHONPATH': paths, 'MALLOC_MMAP_THRESHOLD_': str(2**20)}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode == 0:
        return int(result.stdout.split()[-1])
    if result.returncode < 0 or re.search(r"can't allocate memory|out of memory|MemoryError", result.stderr):
        return None
    raise ChildProcessError(f'measuring memory of {spec["implementation"]} failed: {result.stderr.strip()[-500:]}')


def _measure_gpu_memory(task: Task, implementation: str) -> int | None:
    """In this process: the allocator of torch knows what is in use. The first step may compile."""
    torch.cuda.empty_cache()
    try:
        step = make_step(task, implementation)
        before = torch.cuda.memory_allocated(task.device)
        step()
        torch.cuda.reset_peak_memory_stats(task.device)
        step()
        return torch.cuda.max_memory_allocated(task.device) - before
    except torch.cuda.OutOfMemoryError:
        return None


def print_memory(spec: str) -> None:
    """What the process of :func:`measure_memory` runs: print the bytes of a task."""
    settings = json.loads(spec)
    task = Task(**settings['task'])
    print(peak_of_step(make_step(task, settings['implementation']), task.device))


def peak_of_step(step: Callable[[], object], device: str) -> int:
    """Run a step and give its peak memory above what is in use now.

    Args:
        step: What to run, once.
        device: Where it runs, such as ``'cpu'`` or ``'cuda:0'``.

    Returns:
        Bytes: resident memory of this process on a CPU, allocated by torch on a GPU.
    """
    if device.startswith('cuda'):
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    import resource

    # A process that takes more than there is would be killed, or would push others out.
    used, free = _read_bytes('VmSize'), _read_bytes('MemAvailable', '/proc/meminfo')
    resource.setrlimit(resource.RLIMIT_AS, (used + int(0.9 * free),) * 2)
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts again from what is resident now
    before = _read_bytes('VmRSS')
    step()
    return _read_bytes('VmHWM') - before


def _read_bytes(field: str, path: str = '/proc/self/status') -> int:
    """A size in a file of the kernel; of this process what is resident now (``'VmRSS'``) or was at most (``'VmHWM'``)."""
    found = re.search(rf'{field}:\s+(\d+)', Path(path).read_text())
    assert found is not None
    return int(found[1]) * 1024
