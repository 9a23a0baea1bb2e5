"""Build MMEngine's Runner from a config."""

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..weights.loading import keep_for_next_read
from .hooks import CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook


def build_runner(cfg: Config, checkpoints: Mapping[str, dict] | None = None) -> Runner:
    """Build the Runner of a config, not yet started.

    Args:
        cfg: The whole config, with ``work_dir`` and ``launcher``.
        checkpoints: What :func:`check_checkpoints` returned; the Runner takes it instead of reading the files.

    Returns:
        The Runner.
    """
    keep_for_next_read(checkpoints or {})
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in (FitCheckpointHook, CheckBatchSizeHook, CountFaultsHook):  # for configs that do not have them
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner
