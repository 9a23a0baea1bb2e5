"""Everything that one run of the benchmark measures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from .measure import measure_memory, measure_parts, measure_time
from .precision import with_precision
from .products import Rate
from .report import Section, memory_section, parts_section, roofline_section, time_section
from .roofline import Roofline, measure_roofline
from .task import Task, Timing


class Measurements(NamedTuple):
    """What was measured, task by task.

    Attributes:
        timings: The timings of all implementations, ours first, and the machine's fastest product.
        memory: The task, and peak memory in bytes by implementation; None where it does not fit.
        profiles: The task, and seconds of our step by operator.
        rooflines: Of our backbone at inferences.
    """

    timings: list[tuple[list[Timing], Rate]]
    memory: list[tuple[Task, Mapping[str, int | None]]]
    profiles: list[tuple[Task, Mapping[str, float]]]
    rooflines: list[Roofline]


def run_tasks(
    tasks: Iterable[Task],
    implementations: Sequence[str],
    show: Callable[[Section], object],
    rounds: int = 7,
    with_time: bool = True,
    with_memory: bool = False,
    with_profile: bool = False,
    with_roofline: bool = False,
) -> Measurements:
    """Measure implementations at tasks.

    Args:
        tasks: What to run.
        implementations: ``'mmtwins'`` and others, see :mod:`mmtwins.benchmark.peers`.
        show: Called with each table as soon as it is complete.
        rounds: How often to time each.
        with_time: Measure time. With ``with_memory``, what does not fit into memory is left out.
        with_memory: Measure peak memory, in a process each.
        with_profile: Measure where the time of our step goes.
        with_roofline: Measure how near our modules are to what the machine can do, at inferences of the backbone.

    Returns:
        The measurements.
    """
    measured = Measurements([], [], [], [])
    for task in with_precision(tasks):
        fitting = list(implementations)
        if with_memory:
            peaks = {name: measure_memory(task, name) for name in implementations}
            measured.memory.append((task, peaks))
            show(memory_section(task, peaks))
            fitting = [name for name in implementations if peaks[name] is not None]
        if fitting and with_time:
            measured.timings.append(measure_time(task, fitting, rounds))
            show(time_section(*measured.timings[-1]))
        if with_profile and 'mmtwins' in fitting:
            measured.profiles.append((task, measure_parts(task, rounds)))
            show(parts_section(*measured.profiles[-1]))
        if with_roofline and task.work == 'inference' and task.config is None:
            measured.rooflines.append(measure_roofline(task, rounds))
            show(roofline_section(measured.rooflines[-1]))
    return measured
