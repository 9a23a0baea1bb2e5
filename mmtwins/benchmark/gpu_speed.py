"""Time and peak memory on a GPU: of backbones and whole models, and of the back ends of attention."""

import resource
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

from .measure import NO_ROOM, measure_memory, measure_time, synchronize, time_in_turn
from .peers import OURS
from .precision import products_in
from .products import Rate
from .report import to_json
from .sdpa import BACK_ENDS, CHOSEN, forced, measure_attention, shapes_of
from .steps import make_step
from .task import Task, Timing

WHOLE = 'backbone'


def one_line(error: BaseException) -> str:
    """The type and the first lines of an error."""
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'.rstrip(': ')


def measure_speed(task: Task, implementations: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure peak memory and time of implementations; one that fails does not end the others.

    Args:
        task: What to run.
        implementations: ``'mmtwins'`` first, see :mod:`mmtwins.benchmark.peers`.
        rounds: How often to time each.

    Returns:
        ``timings`` and ``memory`` as :func:`mmtwins.benchmark.report.to_json` gives them, ``errors`` by implementation, and
        ``failures``: a sentence for each of ours that failed.
    """
    errors: dict[str, str] = {}
    peaks: dict[str, int | None] = {}
    with products_in(task.precision):
        for name in implementations:
            try:
                peaks[name] = measure_memory(task, name) if task.is_on_gpu else _growth(task, name)
            except Exception as error:  # of a compiler, of another library, of CUDA
                errors[name] = one_line(error)
        fitting = [name for name, peak in peaks.items() if peak is not None]
        timings: list[tuple[list[Timing], Rate]] = []
        while fitting and not timings:
            try:
                timings = [measure_time(task, fitting, rounds)]
            except torch.cuda.OutOfMemoryError:
                errors[fitting.pop()] = f'{NO_ROOM} beside the others'
    measured = to_json(timings, [(task, peaks)], [])
    failures = [
        f'{name} failed: {text}' for name, text in errors.items() if name in OURS and not text.startswith(NO_ROOM)
    ]
    return dict(timings=measured['timings'], memory=measured['memory'], errors=errors, failures=failures)


def _growth(task: Task, name: str) -> int:
    """Bytes by which a step lets this process grow: a stand-in for peak memory, since a process for each would take long."""
    step = make_step(task, name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure_all_attention(
    size: tuple[int, int],
    batch: int,
    device: str,
    precisions: Sequence[str],
    works: Sequence[str],
    rounds: int,
    repeats: int,
    arch: str | Mapping[str, Sequence] = 'small',
) -> dict[str, Any]:
    """Time the attentions of Twins-SVT, and the backbone, with each back end of PyTorch's fused attention.

    Args:
        size: Height and width of the images, in pixels.
        batch: Images at once.
        device: Such as ``'cuda:0'``.
        precisions: Out of ``'fp32'``, ``'bf16'`` and ``'fp16'``.
        works: Out of :data:`mmtwins.benchmark.task.WORKS`.
        rounds: How often to time each.
        repeats: Calls of an attention in each round.
        arch: Architecture of the backbone.

    Returns:
        ``rows``: precision, work, name of the attention, and ``ways`` as :func:`mmtwins.benchmark.sdpa.measure_attention`
        gives them; or a ``reason``.
    """
    rows: list[dict[str, Any]] = []
    for precision, work in product(precisions, works):
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            shape.name: partial(measure_attention, shape, precision, work, device, rounds, repeats)
            for shape in shapes_of(*size, batch, arch)
        }
        task = Task(work, *size, batch, precision, device, arch)
        measures[WHOLE] = partial(measure_back_ends, task, rounds)
        for name, measure in measures.items():
            row: dict[str, Any] = dict(precision=precision, work=work, name=name)
            try:
                with products_in(precision):
                    rows.append(dict(row, ways=measure()))
            except torch.cuda.OutOfMemoryError:
                rows.append(dict(row, reason=NO_ROOM))
    return dict(rows=rows)


def measure_back_ends(task: Task, rounds: int) -> dict[str, Any]:
    """Time our backbone with each back end of attention forced.

    Args:
        task: What to run.
        rounds: How often to time each.

    Returns:
        As :func:`mmtwins.benchmark.sdpa.measure_attention`, without differences.
    """
    torch.manual_seed(0)
    step = make_step(task, 'mmtwins')
    found: dict[str, Any] = {}
    steps: dict[str, Callable[[], object]] = {}
    for way in (CHOSEN, *BACK_ENDS):
        run = step if way == CHOSEN else partial(_run_forced, way, step)
        try:
            run()
            found[way], steps[way] = {}, run
        except torch.cuda.OutOfMemoryError:
            found[way] = dict(reason=NO_ROOM)
        except (RuntimeError, ImportError, AttributeError) as error:
            found[way] = dict(reason=f'not available: {one_line(error)}')
    for way, seconds in time_in_turn(steps, rounds, partial(synchronize, task.device)).items():
        found[way]['seconds'] = seconds
    return found


def _run_forced(way: str, step: Callable[[], object]) -> None:
    with forced(way):
        step()
