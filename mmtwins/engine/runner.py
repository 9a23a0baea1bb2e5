"""Build MMEngine's Runner from a config."""

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .hooks import CheckBatchSizeHook, FitCheckpointHook


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config that has ``work_dir`` and ``launcher``, not yet started."""
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in (FitCheckpointHook, CheckBatchSizeHook):  # for configs that do not have them
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner
