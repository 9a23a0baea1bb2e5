"""Build MMEngine's Runner from a config."""

from collections.abc import Mapping, Sequence

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..weights.loading import keep_for_next_read
from .building import naming_config
from .checkpoint_hook import SafeCheckpointHook
from .class_order import MatchClassesHook
from .config_sections import check_together
from .distributed import SameBuffersHook, prepare_processes
from .divergence import StopOnDivergenceHook
from .hooks import CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook, ReturnMemoryHook
from .loops import name_resumable_loop
from .pictures_hook import TrainingPicturesHook
from .resume_hook import ExactResumeHook
from .start import drop_imagenet
from .stopping import StopOnSignalHook

OURS = (
    FitCheckpointHook,
    MatchClassesHook,
    CheckBatchSizeHook,
    CountFaultsHook,
    ExactResumeHook,
    StopOnSignalHook,
    StopOnDivergenceHook,
    SameBuffersHook,
    ReturnMemoryHook,
)


def build_runner(cfg: Config, checkpoints: Mapping[str, dict] | None = None, notes: Sequence[str] = ()) -> Runner:
    """Build the Runner of a config, not yet started.

    Args:
        cfg: The whole config, with ``work_dir`` and ``launcher``.
        checkpoints: What :func:`check_checkpoints` returned; the Runner takes it instead of reading the files.
        notes: Sentences for the start of the log.

    Returns:
        The Runner.

    Raises:
        ValueError: Something that the config describes cannot be built.
    """
    keep_for_next_read(checkpoints or {})
    prepare_processes(cfg)
    check_together(cfg)
    save_safely(cfg)
    draw_pictures(cfg)
    if cfg.get('runner_type') == 'FlexibleRunner':
        cfg.env_cfg = cfg.get('env_cfg') or {}
        if cfg.get('load_from'):
            drop_imagenet(cfg)  # which it would load before our hook can tell it not to
    with naming_config(cfg):
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in OURS:  # for configs that do not have them
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    name_resumable_loop(runner)
    for note in notes:
        runner.logger.info(note)
    return runner


def draw_pictures(cfg: Config) -> None:
    """Let a config of MMSegmentation or MMDetection draw pictures of its training, in place.

    Args:
        cfg: The whole config, with ``default_hooks``. The entry ``pictures`` has options of the hook; None draws nothing.
    """
    if cfg.get('default_scope') in ('mmseg', 'mmdet') and cfg.get('train_cfg'):
        options = cfg.default_hooks.pop('pictures', {})  # MMEngine refuses None for a hook that is not one of its own
        if options is not None:
            cfg.default_hooks.pictures = dict(type=TrainingPicturesHook.__name__) | options


def save_safely(cfg: Config) -> None:
    """Let a config that names MMEngine's ``CheckpointHook``, or leaves it to the Runner, use ours, in place.

    Args:
        cfg: The whole config. Options of the hook stay; so do other hooks, and ``checkpoint=None``.
    """
    if 'checkpoint' not in (cfg.get('default_hooks') or {}):
        cfg.merge_from_dict(
            {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1)}
        )  # what the Runner adds
    for hook in (cfg.default_hooks.checkpoint, *(cfg.get('custom_hooks') or [])):
        if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook):
            hook['type'] = SafeCheckpointHook.__name__
