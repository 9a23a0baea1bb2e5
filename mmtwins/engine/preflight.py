"""The block in the log before the first iteration: starting weights, batch, classes, disk, results, and how to resume."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets.data_report import Report
from .checkpoint_room import measure_room
from .hooks import CheckBatchSizeHook
from .model import build_on_meta
from .preflight_lines import (
    Line,
    describe_batch,
    describe_classes,
    describe_disk,
    describe_results,
    describe_resume,
)
from .starting_weights import describe_weights


@dataclass(frozen=True)
class Preflight:
    """The lines of the block that are known before the processes of a training are connected.

    Args:
        weights: What the backbone starts from.
        classes: The classes found in the data.
        disk: Room for checkpoints.
        results: Where logs and checkpoints go.
        resume: How to continue the training.
    """

    weights: Line
    classes: Line
    disk: Line
    results: Line
    resume: Line

    def block(self, batch: Line) -> str:
        """The text of the block, with the line about the batch, which depends on the number of processes."""
        lines = (self.weights, batch, self.classes, self.disk, self.results, self.resume)
        rows = [f'{"!" if line.is_loud else " "} {line.subject:8} {line.text}' for line in lines]
        return '\n'.join(['Before the first iteration:', *rows])


def look_ahead(
    cfg: Config,
    checkpoints: Mapping[str, dict],
    report: Report,
    from_scratch: bool = False,
    recipe: str | None = None,
) -> Preflight:
    """Find out what a training will do, before anything is written.

    Args:
        cfg: The whole config, with ``work_dir``; ``load_from`` names the checkpoint to resume, if ``resume`` is True.
        checkpoints: What :func:`mmtwins.engine.checks.check_checkpoints` returned.
        report: What :func:`mmtwins.datasets.checking.check_before_training` returned.
        from_scratch: Whether random weights are asked for.
        recipe: Name of the published run that the config repeats.

    Returns:
        All lines except the one about the batch.

    Raises:
        ValueError: The disk has no room for a checkpoint.
    """
    model = build_on_meta(cfg)
    meta = (checkpoints.get(cfg.get('load_from') or '') or {}).get('meta', {}) if cfg.get('resume') else {}
    has_epochs = bool((cfg.get('train_cfg') or {}).get('max_epochs'))
    room = measure_room(cfg, model, meta.get('epoch' if has_epochs else 'iter', 0))
    return Preflight(
        describe_weights(cfg, model, checkpoints, from_scratch, recipe),
        describe_classes(cfg, report),
        describe_disk(room),
        describe_results(cfg, room),
        describe_resume(cfg),
    )


class PreflightHook(Hook):
    """Logs the block when everything is built and loaded, on the first process."""

    priority = 'LOWEST'

    def __init__(self, preflight: Preflight) -> None:
        self.preflight = preflight

    def before_train(self, runner: Runner) -> None:
        """Log the block."""
        if is_main_process():
            batch = describe_batch(runner.cfg, runner.world_size)
            block = self.preflight.block(batch)
            runner.logger.log(logging.WARNING if '\n! ' in block else logging.INFO, block)


def announce(runner: Runner, preflight: Preflight | None) -> None:
    """Let a Runner log the block before its first iteration, instead of the warning about the batch alone.

    Args:
        runner: Not yet started.
        preflight: None on all processes but the first.
    """
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, CheckBatchSizeHook)]
    if preflight is not None:
        runner.register_hook(PreflightHook(preflight))
