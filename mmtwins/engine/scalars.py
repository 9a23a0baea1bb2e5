"""Read the numbers that MMEngine logged into a work directory, joined over all runs of a training."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Joined(NamedTuple):
    """Records of training and validation over all runs, see :class:`mmtwins.analysis.run_log.RunLog`."""

    training: list[dict]
    validation: list[dict]
    starts: list[int]
    trained: Path | None  # the last log with training
    unreadable: int


def read_scalars(work_dir: str | Path) -> list[dict]:
    """Read all records of a work directory. For iterations that were trained twice, after an interrupt, the later run counts.

    Args:
        work_dir: Work directory of MMEngine.

    Returns:
        One dict per record, ordered by ``step`` (iterations), a validation before the training record of the same step; empty
        if nothing was logged.
    """
    joined = join_logs(find_logs(Path(work_dir)))
    return sorted(joined.validation + joined.training, key=lambda record: record['step'])  # keeps equal ones in order


def find_logs(work_dir: Path) -> list[Path]:
    """Find the files of numbers that MMEngine wrote into a work directory.

    Args:
        work_dir: Work directory, or the folder TIMESTAMP of a single run in it.

    Returns:
        One file per run, the earliest first.
    """
    files = sorted(work_dir.glob('*/vis_data/scalars.json'), key=lambda path: path.parts[-3])
    return files or sorted(work_dir.glob('vis_data/scalars.json'))


def join_logs(files: Iterable[Path]) -> Joined:
    """Join the logs of several runs. A run replaces what earlier ones logged from its first iteration on.

    Args:
        files: Files of :func:`find_logs`.

    Returns:
        The records of all runs.
    """
    training: dict[int, dict] = {}
    validation: dict[int, dict] = {}
    starts: list[int] = []
    trained, unreadable = None, 0
    for path in files:
        records = list(_read_records(path))
        unreadable += sum(record is None for record in records)
        run = _place_validations([record for record in records if record])
        steps = [record['step'] for record in run if _is_training(record)]
        if not steps:
            continue
        for known in (training, validation):
            for step in [step for step in known if step >= min(steps)]:
                del known[step]
        for record in run:
            (training if _is_training(record) else validation)[record['step']] = record
        starts = [start for start in starts if start < min(steps)] + [min(steps)]
        trained = path
    ordered = [[known[step] for step in sorted(known)] for known in (training, validation)]
    return Joined(ordered[0], ordered[1], starts, trained, unreadable)


def _is_training(record: dict) -> bool:
    return 'loss' in record or any(key.endswith('lr') for key in record)


def _place_validations(records: list[dict]) -> list[dict]:
    """Give each validation the iteration after which it ran; a training that counts in epochs logs the epoch as ``step``."""
    by_epoch = any('epoch' in record for record in records)
    placed, last = [], 0
    for record in records:
        if _is_training(record):
            last = max(last, record['step'])
        elif by_epoch and record['step'] < last:
            record = record | dict(epoch=record['step'], step=last)
        elif by_epoch and not last:
            continue  # of an epoch that an earlier run trained
        placed.append(record)
    return placed


def _read_records(path: Path) -> Iterator[dict | None]:
    """The numbers of each line, with ``step``; None for a line that is no record."""
    for line in path.read_text(errors='replace').splitlines():
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            numbers = {
                re.sub('^(train|val)/', '', key): value  # of log_processor.log_with_hierarchy
                for key, value in record.items()
                if isinstance(value, int | float)
            }
            step = int(numbers['step'])
            yield numbers | dict(step=step) if step > 0 or not _is_training(numbers) else None
        except (ValueError, AttributeError, KeyError, OverflowError):
            yield None
