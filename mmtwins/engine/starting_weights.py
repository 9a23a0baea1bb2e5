"""What the backbone of a training starts from, in one line."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from ..weights.formats import unwrap
from ..weights.pretrained import IMAGENET, IMAGENET_SCHEME
from .config_sections import type_of
from .preflight_lines import Line

FAMILIES = {'TwinsSVTBackbone': 'svt', 'TwinsPCPVTBackbone': 'pcpvt'}
MOST = 0.5  # share of a backbone's weights below which a checkpoint is probably the wrong one


def describe_weights(
    cfg: Config,
    model: nn.Module,
    checkpoints: Mapping[str, dict],
    from_scratch: bool = False,
    recipe: str | None = None,
) -> Line:
    """What the backbone starts from: the source, and how much of the backbone it has weights for.

    Args:
        cfg: As for :func:`look_ahead`.
        model: That of the config; it may be on the meta device.
        checkpoints: As for :func:`look_ahead`.
        from_scratch: As for :func:`look_ahead`.
        recipe: As for :func:`look_ahead`.

    Returns:
        The line; loud for random weights that are probably not meant, and for a checkpoint that hardly fits.
    """
    source, is_whole, prefix = _find_source(cfg)
    if source is None:
        return Line('weights', *_describe_random_weights(cfg, from_scratch, recipe))
    checkpoint = checkpoints.get(source)
    backbone = getattr(model, 'backbone', None)
    expected = (model if backbone is None else backbone).state_dict()
    if is_whole and backbone is not None:
        prefix = 'backbone'
    iteration = checkpoint.get('meta', {}).get('iter') if checkpoint and cfg.get('resume') else None
    text = f'{source}{"" if iteration is None else f", resumed at iteration {iteration:,}"}'
    if checkpoint is None:
        return Line('weights', f'{text}, which MMEngine loads; its share is not known')
    missing = _find_missing(checkpoint, expected, prefix)
    total = sum(value.numel() for value in expected.values())
    share = 1 - sum(expected[name].numel() for name in missing) / total
    if not missing:
        return Line('weights', f"{text}: all of the backbone's weights")
    percent = min(int(share * 10_000) / 100, 99.99)
    more = f' and {len(missing) - 1} more start' if missing[1:] else ' starts'
    text += f": {percent}% of the backbone's weights; {missing[0]}{more} afresh"
    return Line('weights', text, share < MOST)


def _find_source(cfg: Config) -> tuple[str | None, bool, str | None]:
    """The checkpoint that a backbone starts from, whether it is of the whole model, and the prefix to take."""
    if cfg.get('load_from'):
        return cfg.load_from, True, None
    backbone = cfg.model.get('backbone')
    for part in (cfg.model, backbone):
        if not isinstance(part, Mapping):
            continue
        init_cfg = part.get('init_cfg') or []
        for init in init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]:
            kind = init.get('type') if isinstance(init, Mapping) else None
            if kind in ('Pretrained', PretrainedInit) and init.get('checkpoint'):
                return init['checkpoint'], part is cfg.model, init.get('prefix')
        if isinstance(part.get('pretrained'), str):
            return part['pretrained'], False, None
    return None, False, None


def _find_missing(checkpoint: Mapping[str, Any], expected: Mapping[str, Tensor], prefix: str | None) -> list[str]:
    """The backbone's tensors that a checkpoint has not."""
    given = unwrap(checkpoint)
    if prefix and any(name.startswith(f'{prefix.rstrip(".")}.') for name in given):  # a fitted one has none any more
        start = f'{prefix.rstrip(".")}.'
        given = {name.removeprefix(start): value for name, value in given.items() if name.startswith(start)}
    return [name for name, value in expected.items() if name not in given or given[name].shape != value.shape]


def _describe_random_weights(cfg: Config, from_scratch: bool, recipe: str | None) -> tuple[str, bool]:
    if recipe and from_scratch:
        return f'RANDOM, as --from-scratch asks: the published numbers of {recipe} will not come', True
    name = _imagenet_name(cfg)
    remedy = f"give the backbone init_cfg=dict(type='Pretrained', checkpoint='{IMAGENET_SCHEME}{name}')"
    if recipe:
        return f'RANDOM: {recipe} starts from ImageNet weights, without them its numbers will not come; {remedy}', True
    if from_scratch:
        return 'random, as --from-scratch asks', False
    if cfg.get('default_scope') == 'mmpretrain':
        return 'random, as a classifier starts', False
    if name:
        return f'RANDOM: the config names no checkpoint; {remedy}, or ask for random ones with --from-scratch', True
    return 'random: the config names no checkpoint', False


def _imagenet_name(cfg: Config) -> str | None:
    """Name of the ImageNet weights for a backbone; None if there are none."""
    backbone = cfg.model.get('backbone')
    family = FAMILIES.get(type_of(backbone)) if isinstance(backbone, Mapping) else None
    name = f'{family}-{backbone.get("arch", "small")}' if family else ''
    return name if name in IMAGENET else None
