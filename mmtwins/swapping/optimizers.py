"""What a Twins backbone changes in the training of a model: optimizer, learning rate, weight decay, starting weights."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ..engine.config_sections import type_of
from ..models.backbone import TwinsBackbone
from .consumers import Edits

# Our recipes, see configs/_base_/schedules: learning rate, weight decay and betas for 16 images a step, and their source.
FPN = dict(lr=1e-4, weight_decay=1e-4), "Semantic FPN's published recipe"
UPERNET = dict(lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01), "UPerNet's published recipe"
ONE_STAGE = dict(lr=1e-4, weight_decay=1e-4), "RetinaNet's published recipe of 12 epochs"
TWO_STAGE = dict(lr=2e-4, weight_decay=1e-4), "Mask R-CNN's published recipe of 12 epochs"
LONG = dict(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05), 'the published recipes of 36 epochs'
CLASSIFIER = dict(lr=1.6e-5, weight_decay=0.05), 'the published recipe on ImageNet, 5e-4 for 512 images'
LONG_EPOCHS = 24
LAYER_DECAY = ('layer_decay_rate', 'decay_rate')  # of constructors that know the layers of a single backbone
NOT_DECAYED = {'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)}


def is_decayed(name: str) -> bool:
    """Whether a weight of the backbone has weight decay in our recipes: all but norms and position encodings have it."""
    return 'norm' not in name and 'pos_block' not in name


def change_optimizer(
    cfg: Config, holder: Mapping[str, Any], backbone: TwinsBackbone
) -> tuple[dict[str, Any], dict[str, str]]:
    """Find what changes in the optimizer and the schedule: a base without AdamW gets that of our recipes.

    Gradient clipping, mixed precision, accumulation and rules for other parts of the model stay.

    Args:
        cfg: The base.
        holder: Config of the segmentor or the detector in it.
        backbone: The new one.

    Returns:
        Changes of the config, and reasons for some of them, by key.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, dict) or not isinstance(wrapper.get('optimizer'), dict):
        return {}, {}
    optimizer, rules = wrapper['optimizer'], wrapper.get('paramwise_cfg') or {}
    by_layer = any(key in rules for key in LAYER_DECAY)
    changes: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if type_of(optimizer) == 'AdamW' and not by_layer:
        custom_keys = _missing_rules(rules, backbone)
        if custom_keys:
            changes['optim_wrapper'] = {'paramwise_cfg': {'custom_keys': custom_keys}}
            reasons['custom_keys'] = (
                "the backbone's norms and position encodings have no weight decay; the base's AdamW stays"
            )
        return changes, reasons
    settings, source = _recipe(cfg, holder)
    given = type_of(optimizer)
    reasons['optimizer'] = f'{source}, for 16 images a step, in place of {given} with {optimizer.get("lr")}'
    if by_layer:
        reasons['optimizer'] = (
            f'{source}, for 16 images a step; the layer-wise rates were for layers of the old backbone'
        )
    changes['optim_wrapper'] = {'optimizer': {'_delete_': True, 'type': 'AdamW', **settings}}
    kept = {} if by_layer else rules
    custom_keys = {**NOT_DECAYED, **_missing_rules(_with_rules(kept, NOT_DECAYED), backbone)}
    factors = _rule_for('backbone.pos_block', kept)
    if factors:  # the shorter key would win over the base's rule and drop its factors
        custom_keys['backbone.pos_block'] = {**factors, **custom_keys.pop('pos_block')}
    changes['optim_wrapper']['paramwise_cfg'] = {'custom_keys': custom_keys}
    reasons['custom_keys'] = 'norms and position encodings have no weight decay, as in our recipes'
    if by_layer:
        changes['optim_wrapper']['constructor'] = 'DefaultOptimWrapperConstructor'
        changes['optim_wrapper']['paramwise_cfg']['_delete_'] = True
    old_lr = optimizer.get('lr')
    schedule = _scale_ends(cfg.get('param_scheduler'), settings['lr'] / old_lr) if old_lr else None
    if schedule:
        changes['param_scheduler'] = schedule
        reasons['param_scheduler'] = "the schedule's absolute rates are scaled with the learning rate of the optimizer"
    return changes, reasons


def change_start(cfg: Config, path: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Remove weights of the old backbone from those that a model starts from.

    Args:
        cfg: The base.
        path: Keys of the segmentor or the detector, from the top of the config.

    Returns:
        Changes of the config, and the reasons for them, by key.
    """
    changes: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    if cfg.get('load_from'):
        changes['load_from'] = None
        reasons['load_from'] = "the base's checkpoint holds the old backbone"
    part: Any = cfg
    level = changes
    for key in path:
        part, level = part[key], level.setdefault(key, {})
        if part.get('pretrained'):
            level['pretrained'] = None
            reasons['pretrained'] = 'the base names weights of the old backbone'
        init = part.get('init_cfg')
        if isinstance(init, dict) and type_of(init) == 'Pretrained':
            level['init_cfg'] = None
            reasons['init_cfg'] = (
                "the base's checkpoint holds the old backbone, and Twins would not load weights of its own"
            )
    return changes, reasons


def _recipe(cfg: Config, holder: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Learning rate, weight decay and betas for the family of a model, and their source."""
    if 'decode_head' in holder:
        heads = holder['decode_head']
        first = heads[0] if isinstance(heads, list | tuple) else heads
        return FPN if type_of(first) == 'FPNHead' else UPERNET
    if 'head' in holder:
        return CLASSIFIER
    if (cfg.get('train_cfg') or {}).get('max_epochs', 0) >= LONG_EPOCHS:
        return LONG
    return TWO_STAGE if 'roi_head' in holder else ONE_STAGE


def _with_rules(rules: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {**rules, 'custom_keys': {**(rules.get('custom_keys') or {}), **more}}


def _missing_rules(rules: Mapping[str, Any], backbone: TwinsBackbone) -> dict[str, Any]:
    """Rules without weight decay for those norms and position encodings of the backbone that still have it.

    MMEngine takes the longest key that is part of a name, so each key here is longer than the one that it refines.
    """
    missing: dict[str, Any] = {}
    for name, parameter in backbone.named_parameters():
        if is_decayed(name):
            continue
        full = f'backbone.{name}'
        rule = _rule_for(full, rules)
        if rule is None:
            rule = {'decay_mult': _default_decay(rules, name, parameter.dim())}
        if rule.get('decay_mult', 1.0) != 0:
            others = {key: value for key, value in rule.items() if key != 'decay_mult'}
            missing |= {key: {**others, 'decay_mult': 0.0} for key in _families(full)}
    return missing


def _rule_for(name: str, rules: Mapping[str, Any]) -> Mapping[str, Any] | None:
    custom = rules.get('custom_keys') or {}
    winner = min((key for key in custom if key in name), key=lambda key: (-len(key), key), default=None)
    return None if winner is None else custom[winner]


def _default_decay(rules: Mapping[str, Any], name: str, dims: int) -> float:
    """The factor of the weight decay by the kind of layer, for a name that no key fits."""
    keys = {
        'norm_decay_mult': 'norm' in name,
        'bias_decay_mult': name.endswith('bias'),
        'dwconv_decay_mult': 'pos_block' in name,
        'flat_decay_mult': dims == 1,
    }
    return next((rules[key] for key, fits in keys.items() if fits and rules.get(key) is not None), 1.0)


def _families(name: str) -> tuple[str, ...]:
    """Keys that cover a weight and its like: all position encodings, all stage norms, the norms of a block, or one norm."""
    for common in ('pos_block', 'norm_list'):
        if common in name:
            return (f'backbone.{common}',)
    parts = name.split('.')
    if 'blocks' in parts:
        block = '.'.join(parts[:4])
        return f'{block}.norm', f'{block}.attn.norm'
    return (name.rpartition('.')[0],)


def _scale_ends(schedule: Any, ratio: float) -> Any:
    """Scale a schedule's ``eta_min`` and ``eta_max``: they are learning rates and not factors of one."""
    if isinstance(schedule, list | tuple):
        found = {i: _scale_ends(one, ratio) for i, one in enumerate(schedule)}
        return Edits({i: change for i, change in found.items() if change})
    if not isinstance(schedule, dict):
        return {}
    return dict(_ends(schedule, ratio))


def _ends(schedule: Mapping[str, Any], ratio: float) -> Iterator[tuple[str, float]]:
    for key in ('eta_min', 'eta_max'):
        value = schedule.get(key)
        if isinstance(value, int | float) and value:
            yield key, round(value * ratio, 3 - math.ceil(math.log10(abs(value * ratio))))
