"""Export all architectures to all formats, and compare results and time with PyTorch, for ``docs/export.md``."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..datasets.isolation import run_isolated
from ..engine.config import load_config
from ..engine.config_names import recipe_files
from ..kept_results import keep_result
from .exportable import build_exportable
from .runtimes import FORMATS, Runner, as_runner, open_file, write_file
from .verifying import TOLERANCE, largest_difference

ARCHS = ('svt-s', 'svt-b', 'svt-l', 'pcpvt-s', 'pcpvt-b', 'pcpvt-l')
MODELS = {'backbone': 'fpn', 'fpn': 'fpn', 'upernet': 'upernet'}  # and the recipe that each is built from
# In pixels. Windows of 7 x 7 tokens fit the first two in all stages; they need padding on one axis in the third, on both in
# the others. 250 x 333 pixels do not fill their patches either.
SIZES = ((224, 224), (224, 448), (224, 320), (250, 333), (512, 512))
TRACED = (224, 320)  # pixels; one file serves all sizes
BRIEF = 0.5  # seconds: what takes less is timed again
ROUNDS = 3
SECONDS = 3600  # for one cell
SHARED = ('mmseg.models', 'torch.export', 'torch.onnx', 'onnxscript')  # imported once, for the processes of all cells


class Cell(NamedTuple):
    """A cell of the matrix: an architecture, a key of :data:`MODELS`, and a key of :data:`mmtwins.export.FORMATS`."""

    arch: str
    model: str
    format: str

    @property
    def name(self) -> str:
        return '_'.join(self)


def all_cells(
    archs: Sequence[str] = ARCHS, models: Sequence[str] = tuple(MODELS), formats: Sequence[str] = tuple(FORMATS)
) -> list[Cell]:
    """The cells of some architectures, models and formats, format by format."""
    return [Cell(arch, model, format_) for format_, model, arch in product(formats, models, archs)]


def sweep(
    results: Path, cells: Sequence[Cell], again: bool = False, kept: bool = False, measure: Callable | None = None
) -> Iterator[dict[str, Any]]:
    """Measure cells in a process each; results of earlier calls are kept.

    Args:
        results: Folder for one JSON file per cell.
        cells: To measure.
        again: Repeat those that failed.
        kept: Measure nothing; only give the results that are there.
        measure: Called with a cell; None takes :func:`measure_cell`.

    Yields:
        The result of each cell, see :func:`measure_cell`. A runtime that is not installed gives the ``state`` ``'missing'``
        and a ``reason``; such a cell is measured as soon as the runtime is there.
    """
    results.mkdir(parents=True, exist_ok=True)
    for module in () if kept or measure else SHARED:
        with suppress(ImportError):  # then the cells say what is missing
            import_module(module)
    for cell in cells:
        absent = missing_packages(cell.format)

        def is_outdated(known: dict[str, Any], absent: list[str] = absent) -> bool:
            return (known['state'] == 'missing' and not absent) or (again and known['state'] != 'works')

        found = keep_result(
            results / f'{cell.name}.json',
            partial(_measure_isolated, cell, absent, measure or measure_cell),
            is_outdated,
            only_kept=kept,
        )
        if found is not None:
            yield found


def _measure_isolated(cell: Cell, absent: Sequence[str], measure: Callable) -> dict[str, Any]:
    if absent:
        found = dict(state='missing', reason=f'{" and ".join(absent)} was not installed')
    else:
        outcome = run_isolated(measure, cell, SECONDS)
        found = outcome.value or dict(state='failed', reason=' '.join(outcome.failure.split())[:300])
    return {**cell._asdict(), **found}


def missing_packages(format_: str) -> list[str]:
    """What a format needs and is not installed."""
    packages = dict.fromkeys((*FORMATS[format_].needs, *FORMATS[format_].runs))
    return [package for package in packages if find_spec(package) is None]


def measure_cell(cell: Cell, sizes: Sequence[tuple[int, int]] = SIZES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Export a model with random weights, run the file, and compare it with the model, all on one thread.

    Args:
        cell: Which model and format.
        sizes: Height and width of the images, in pixels.
        rounds: How often what is brief is timed.

    Returns:
        ``state`` (``'works'``, or ``'differs'`` where a difference exceeds :data:`mmtwins.export.TOLERANCE`), ``runtime``
        and its version, ``export_seconds``, ``megabytes`` of the files, and ``sizes``: for each the ``difference``
        relative to the largest value, and processor time in ``seconds`` beside that of the model, ``eager_seconds``.
    """
    torch.set_num_threads(1)
    model = build_recipe(cell.arch, cell.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f'model{FORMATS[cell.format].suffix}')
        start = time.process_time()
        write_file(model, path, cell.format, *TRACED)
        export_seconds = time.process_time() - start
        run = open_file(path, cell.format)
        megabytes = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
        found = [compare(model, run, size, rounds) for size in sizes]
    worst = max(one['difference'] for one in found)
    return dict(
        state='works' if worst <= TOLERANCE else 'differs',
        reason='' if worst <= TOLERANCE else f'differs by {worst:.1e}',
        runtime=runtime_of(cell.format),
        export_seconds=round(export_seconds, 1),
        megabytes=round(megabytes, 1),
        sizes=found,
    )


def build_recipe(arch: str, model: str) -> nn.Module:
    """The exportable part of a recipe for ADE20K, with random weights that make every layer matter.

    Args:
        arch: One of :data:`ARCHS`.
        model: A key of :data:`MODELS`.

    Returns:
        In eval mode.
    """
    pattern = f'{MODELS[model]}_twins-{arch}_'
    name = next(
        name for name, path in recipe_files().items() if name.startswith(pattern) and path.parent.name == 'ade20k'
    )
    torch.manual_seed(0)
    built = build_exportable(load_config(name), None, backbone_only=model == 'backbone')
    for parameter in built.parameters():
        if parameter.dim() > 1:  # initial weights are so small that attention would hardly change the output
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return built


def compare(model: nn.Module, run: Runner, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Compare results and time of a file and its model, on one random image."""
    eager = as_runner(model)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(sum(size)))
    expected, eager_seconds = timed(eager, images)
    difference = largest_difference(run(images), expected)
    _, seconds = timed(run, images)
    for _ in range(rounds - 1 if eager_seconds < BRIEF else 0):
        eager_seconds = min(eager_seconds, timed(eager, images)[1])
        seconds = min(seconds, timed(run, images)[1])
    return dict(size=size, difference=difference, eager_seconds=round(eager_seconds, 4), seconds=round(seconds, 4))


def timed(function: Runner, images: Tensor) -> tuple[list[Tensor], float]:
    """Outputs, and the seconds of processor time that they took, which other programs hardly change."""
    start = time.process_time()
    outputs = function(images)
    return outputs, time.process_time() - start


def runtime_of(format_: str) -> str:
    """What runs a format, with its version."""
    runs = FORMATS[format_].runs
    return f'{runs[0]} {version(runs[0])}' if runs else f'torch {torch.__version__}'
