"""Read what MMEngine left of a training in its work directory: logged numbers, config, number of GPUs."""

import re
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ..engine.config_names import find_config
from ..engine.scalars import find_logs, join_logs

LOGS = 'TIMESTAMP/vis_data/scalars.json'


@dataclass(frozen=True)
class RunLog:
    """A training, joined over all runs that continued it.

    Attributes:
        training: Numbers of training by name, ordered by ``step`` (iterations). With ``epoch``, counted from 1, where the
            training counts in epochs.
        validation: Metrics of validations in the same way.
        cfg: Config of the last run that trained.
        name: Of the recipe, from the file that MMEngine wrote into the work directory; empty where there is none or several.
        starts: Iteration of the first record of each run that is in ``training``.
        unreadable: Number of lines that are no record, such as one that was cut off.
        world_size: Number of processes (GPUs), None where the log does not say.
        epoch_length: Iterations of an epoch, None where the log does not say.
    """

    training: list[dict]
    validation: list[dict]
    cfg: Config
    starts: list[int]
    unreadable: int = 0
    world_size: int | None = None
    epoch_length: int | None = None
    name: str = ''


def read_run(work_dir: str | Path, config: str | Path | None = None) -> RunLog:
    """Read a training from its work directory.

    Args:
        work_dir: Of MMEngine, or the folder TIMESTAMP of a single run in it.
        config: Instead of the config that MMEngine wrote into the work directory; a path, or ``mmtwins::...``.

    Returns:
        The training. Of iterations that were trained twice, after an interrupt, the later run counts.

    Raises:
        ValueError: There is no such folder, no record of training, or no config that can be read.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise ValueError(f'{work_dir} is no folder: give the work directory of a training, such as work_dirs/CONFIG')
    files = find_logs(work_dir)
    if not files:
        raise ValueError(f'{work_dir} has no {LOGS}: give the work directory of a training that MMEngine logged')
    joined = join_logs(files)
    if not joined.training:
        raise ValueError(
            f'{work_dir} has no record of training in {len(files)} log(s): wait for the first line, after '
            'default_hooks.logger.interval iterations'
        )
    cfg = _read_config(
        [Path(find_config(str(config)))] if config else _find_configs(work_dir, joined.trained), work_dir
    )
    world_size, epoch_length = _read_text_log(joined.trained)
    named = list(work_dir.glob('*.py'))
    return RunLog(
        joined.training,
        joined.validation,
        cfg,
        joined.starts,
        joined.unreadable,
        world_size,
        epoch_length,
        name=named[0].stem if len(named) == 1 else '',
    )


def _find_configs(work_dir: Path, trained: Path | None) -> list[Path]:
    """What MMEngine wrote: with the log of the run, and, under the name of the recipe, into the work directory."""
    beside = [trained.with_name('config.py')] if trained else []
    dumped = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime, reverse=True)
    return [path for path in beside + dumped if path.is_file()]


def _read_config(paths: list[Path], work_dir: Path) -> Config:
    problems = []
    for path in paths:
        try:
            return Config.fromfile(path, import_custom_modules=False)
        except Exception as error:  # a config is code, which can raise anything
            problems.append(f'{path}: {type(error).__name__}: {error}')
    reason = '; '.join(problems) or 'MMEngine writes one at the start of a training'
    raise ValueError(f'{work_dir} has no config that can be read ({reason}): name the recipe with --config')


def _read_text_log(trained: Path | None) -> tuple[int | None, int | None]:
    """Number of processes and iterations of an epoch, from the text beside the numbers."""
    world_size = epoch_length = None
    folder = trained.parents[1] if trained else None
    path = folder / f'{folder.name}.log' if folder else None
    if path and path.is_file():
        with path.open(errors='replace') as lines:
            for line in lines:
                if found := re.search(r'GPU number: (\d+)', line):
                    world_size = int(found[1])
                if found := re.search(r'Epoch\(train\) +\[ *\d+\]\[ *\d+/(\d+)\]', line):
                    epoch_length = int(found[1])
                    break
                if re.search(r'Iter\(train\) ', line):
                    break
    return world_size, epoch_length
