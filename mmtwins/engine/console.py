"""Output of a training on the terminal: MMEngine's log without its tables (the log file has them), and how it ended."""

import logging
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine._strategy import BaseStrategy
from mmengine.logging import MMLogger
from mmengine.runner import Runner

# Beginnings of messages that go to the log file alone: environment, config, hooks, one line per parameter, and notes of
# MMEngine, MMSegmentation and MMDetection for their own developers.
TABLES = re.compile(
    r'\s*-+\s*(System|Runtime) environment|Config:\n|Hooks will be executed in the following order|paramwise_options -- |'
    r'.* is skipped since |\s*Name of parameter - Initialization information|'
    r'"(FileClient|HardDiskBackend)" |The prefix is not set in metric class|Exp name: '
)
# Warnings of these libraries that a user of a recipe can do nothing about.
WARNINGS = (
    'pkg_resources is deprecated',
    '``build_loss`` would be deprecated',
    'Default ``avg_non_ignore`` is False',
    'The draw is False, it means that the hook for visualization',
    '.*`get_instance` should not accept any other arguments',
    '.*__array__ implementation doesn.t accept a copy keyword',
)
# A training is judged by the first of these that it has.
METRICS = ('mIoU', 'coco/segm_mAP', 'coco/bbox_mAP', 'accuracy/top1')


class WithoutTables(logging.Filter):
    """Drops the messages of :data:`TABLES`."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not TABLES.match(record.getMessage())


@contextmanager
def quiet_terminal() -> Iterator[None]:
    """Runners built inside the ``with`` block write :data:`TABLES` to their log file only."""
    kinds: tuple[Any, ...] = (Runner, BaseStrategy)  # the strategy of a FlexibleRunner has the logger
    builders = [kind.build_logger for kind in kinds]

    def quiet(build: Callable[..., MMLogger]) -> Callable[..., MMLogger]:
        def build_logger(*args: Any, **kwargs: Any) -> MMLogger:
            logger = build(*args, **kwargs)
            for handler in logger.handlers:
                if not isinstance(handler, logging.FileHandler):
                    handler.addFilter(WithoutTables())
            return logger

        return build_logger

    for kind, build in zip(kinds, builders):
        kind.build_logger = quiet(build)
    try:
        yield
    finally:
        for kind, build in zip(kinds, builders):
            kind.build_logger = build


@contextmanager
def only_errors(*loggers: logging.Logger) -> Iterator[None]:
    """Let loggers pass on errors only, inside the ``with`` block."""
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def silence_libraries() -> None:
    """Ignore :data:`WARNINGS` in this process. Meant for programs, not for libraries."""
    for message in WARNINGS:
        warnings.filterwarnings('ignore', message=message)


def describe_end(runner: Runner) -> str:
    """How a training has ended: its metric, its weights, and the command that predicts with them.

    Args:
        runner: A Runner whose training has ended.

    Returns:
        One to four lines.
    """
    hub = runner.message_hub
    lines = []
    metric = next((name for name in METRICS if f'val/{name}' in hub.log_scalars), None)
    if metric:
        values = hub.get_scalar(f'val/{metric}').data[0]
        lines.append(f'{metric}: {values[-1]:.4g}, the best of {len(values)} validations {values.max():.4g}')
    file = next((hub.get_info(key) for key in ('best_ckpt', 'last_ckpt') if hub.runtime_info.get(key)), None)
    if file and Path(file).is_file():
        given = runner.cfg.filename or 'CONFIG.py'
        whole = Path(runner.work_dir, Path(given).name)  # MMEngine wrote it there, with the options of the command line
        config = whole if whole.is_file() or not runner.cfg.filename else given
        lines.append(f'The weights are in {file}. To predict with them:')
        program = 'mmtwins' if shutil.which('mmtwins') else 'python -m mmtwins'
        lines.append(f'{program} predict {shlex.join([str(config), str(file)])} IMAGE --out predicted')
    else:
        lines.append(f'No checkpoint was written to {runner.work_dir}.')
    return '\n'.join(lines)
