"""The GPU report: measure its parts in a process each, keep what was measured, and write the bundle."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..kept_results import keep_result
from ..markdown import update_section
from .gpu_charts import draw_report
from .gpu_page import to_markdown
from .gpu_plan import Part
from .gpu_speed import one_line
from .measure import NO_ROOM

SECONDS = 3600  # for one part
SECTION = 'gpu'
# States of a result. Only the first two are no fault.
DONE, LEFT_OUT, FAILED, ERROR = 'done', 'left out', 'failed', 'error'
Result = dict[str, Any]


def check_gpu(device: str) -> str:
    """Check that a GPU, or the CPU, can be used here.

    Args:
        device: ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Returns:
        The device, with its number.

    Raises:
        ValueError: It cannot.
    """
    if device == 'cpu':
        return device
    kind, _, number = device.partition(':')
    if kind != 'cuda' or not (number or '0').isdecimal():
        raise ValueError(f'--device {device}: give cuda or cuda:0, or cpu for a reduced try')
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise ValueError(
            f'there is no CUDA GPU that PyTorch {torch.__version__} can use: run this on a machine with one, '
            'or try the command in its reduced form with --device cpu'
        )
    if int(number or 0) >= count:
        raise ValueError(f'--device {device}: there are {count} GPUs here, cuda:0 to cuda:{count - 1}')
    return f'cuda:{number or 0}'


def choose_parts(parts: Sequence[Part], only: Sequence[str]) -> list[Part]:
    """The parts whose names begin with one of ``only``; all without any.

    Raises:
        ValueError: One of them is the beginning of no name.
    """
    for beginning in only:
        if not any(part.name.startswith(beginning) for part in parts):
            kinds = ', '.join(dict.fromkeys(part.kind for part in parts))
            raise ValueError(f'--only {beginning!r} is the beginning of no part: the kinds of parts are {kinds}')
    return [part for part in parts if not only or part.name.startswith(tuple(only))]


def measure_part(part: Part) -> Result:
    """Measure a part; whatever goes wrong becomes part of the result.

    Args:
        part: To measure.

    Returns:
        ``state``, ``reason`` and ``measured``.
    """
    try:
        measured = part.measure()
    except torch.cuda.OutOfMemoryError:
        return dict(state=LEFT_OUT, reason=f'{part.name} was left out: it {NO_ROOM}', measured=None)
    except Exception as error:
        return dict(state=ERROR, reason=f'{part.name} ended with {one_line(error)}', measured=None)
    failures = measured.get('failures', [])
    return dict(state=FAILED if failures else DONE, reason='; '.join(failures), measured=measured)


def measure_in_child(part: Part, command: Sequence[str], folder: Path, seconds: float = SECONDS) -> Result:
    """Measure a part in a process of its own, since an error of CUDA makes a process useless.

    Args:
        part: To measure.
        command: A command line that measures it when ``--part NAME --result FILE`` is added.
        folder: For the process's output, and for its result until it is read.
        seconds: Time limit.

    Returns:
        As :func:`measure_part`.
    """
    path, log = (folder / f'{slug(part)}.{suffix}' for suffix in ('result', 'log'))
    path.unlink(missing_ok=True)
    try:
        with log.open('w') as file:
            done = subprocess.run(
                [*command, '--part', part.name, '--result', str(path)], stdout=file, stderr=file, timeout=seconds
            )
    except subprocess.TimeoutExpired:
        return dict(state=ERROR, reason=f'{part.name} was stopped after {seconds:.0f} s', measured=None)
    if not path.exists():
        lines = log.read_text(errors='replace').split('\n')
        last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), 'no output')
        return dict(state=ERROR, reason=f'{part.name} ended with code {done.returncode}: {last}', measured=None)
    result: Result = json.loads(path.read_text())
    path.unlink()
    return result


def slug(part: Part) -> str:
    """The name of a part as a file's."""
    return part.name.replace(' ', '_')


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    machine: Mapping[str, Any],
    measure: Callable[[Part], Result],
    chosen: Sequence[Part] | None = None,
    again: bool = False,
) -> Iterator[Result]:
    """Measure parts, or read what an earlier call measured on the same machine with the same settings.

    Args:
        parts: All parts.
        folder: For a JSON file per part.
        machine: See :func:`mmtwins.benchmark.machine.describe_machine`.
        measure: :func:`measure_part` or :func:`measure_in_child`.
        chosen: Those to measure; of the others only what is kept is read. None measures all.
        again: Measure those that are kept, too.

    Yields:
        The result of each part that has one: its ``name``, ``state``, ``reason``, ``measured``, ``seconds``, ``settings``,
        ``machine``, and whether it ``is_new``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        new: list[Result] = []

        def is_outdated(known: Result, part: Part = part) -> bool:
            return again or known['machine'] != dict(machine) or known['settings'] != part.settings

        found = keep_result(
            folder / f'{slug(part)}.json',
            partial(_measure, part, machine, measure, new),
            is_outdated,
            only_kept=chosen is not None and part not in chosen,
        )
        if found is not None:
            yield dict(found, is_new=bool(new))


def _measure(part: Part, machine: Mapping[str, Any], measure: Callable[[Part], Result], new: list[Result]) -> Result:
    start = time.perf_counter()
    result = measure(part)
    seconds = round(time.perf_counter() - start, 1)
    new.append(dict(name=part.name, **result, seconds=seconds, settings=part.settings, machine=dict(machine)))
    return new[-1]


def write_bundle(
    folder: Path, command: str, machine: Mapping[str, Any], results: Sequence[Result], page: Path | None = None
) -> list[Path]:
    """Write everything measured as JSON, tables and charts, and into a page.

    Args:
        folder: To write.
        command: The command line that measured.
        machine: Where.
        results: Of the parts.
        page: Markdown file with a section :data:`SECTION`, or None; the charts go to the folder of its name beside it.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, tables = folder / 'report.json', folder / 'tables.md'
    content = dict(command=command, machine=dict(machine), parts=list(results))
    report.write_text(json.dumps(_without_infinity(content), indent=2, allow_nan=False) + '\n')
    charts = draw_report(results, folder)
    tables.write_text(to_markdown(command, machine, results, charts, '') + '\n')
    if page is not None:
        beside = page.parent / page.stem
        beside.mkdir(exist_ok=True)
        for chart in charts:
            shutil.copyfile(chart, beside / chart.name)
        update_section(page, SECTION, to_markdown(command, machine, results, charts, f'{page.stem}/'))
    return [report, tables, *charts]


def _without_infinity(value: Any) -> Any:
    """None in place of numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _without_infinity(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_infinity(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def own_command(tool: str, arguments: Sequence[str]) -> list[str]:
    """The command line of this run, for :func:`measure_in_child`."""
    return [sys.executable, tool, *arguments]
