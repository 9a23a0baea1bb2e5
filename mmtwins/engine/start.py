"""What a training starts from when the weights that its config names are not wanted."""

from collections.abc import Callable
from typing import Any

from mmengine.config import Config
from mmengine.model import PretrainedInit

from ..weights.pretrained import names_imagenet

FROM_SCRATCH = (
    '--from-scratch: no ImageNet weights. The backbone starts from random ones, unless a training is resumed. The published '
    'numbers will not come: every published run starts from ImageNet weights'
)


def start_from_scratch(cfg: Config) -> None:
    """Let the model of a config start from random weights: no ``init_cfg`` names a checkpoint any more.

    Args:
        cfg: The whole config, changed in place.

    Raises:
        ValueError: It names a checkpoint in ``load_from``.
    """
    if cfg.get('load_from') and not cfg.get('resume'):
        raise ValueError(f'--from-scratch contradicts load_from={cfg.load_from}: leave one of them out')
    _drop_checkpoints(cfg.model, lambda entry: entry.get('type') in ('Pretrained', PretrainedInit))


def drop_imagenet(cfg: Config) -> None:
    """Let the model of a config fetch no ImageNet weights, because a checkpoint replaces them, in place.

    Args:
        cfg: The whole config.
    """
    _drop_checkpoints(cfg.model, names_imagenet)


def _drop_checkpoints(part: Any, is_dropped: Callable[[dict], bool]) -> None:
    """Drop entries from every ``init_cfg`` in a part of a config."""
    if isinstance(part, list | tuple):
        for inner in part:
            _drop_checkpoints(inner, is_dropped)
    if not isinstance(part, dict):
        return
    if part.get('init_cfg'):
        entries = [part['init_cfg']] if isinstance(part['init_cfg'], dict) else part['init_cfg']
        kept = [entry for entry in entries if not is_dropped(entry)]
        if len(kept) < len(entries):
            part['init_cfg'] = kept or None
    for inner in part.values():
        _drop_checkpoints(inner, is_dropped)
