"""Swap the backbone of a config: find what changes, and apply the changes."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config, ConfigDict

from ..engine.config_sections import type_of
from ..engine.model import build_on_meta
from .consumers import Edits, change_consumers, plain
from .features import Feature, measure_backbone
from .optimizers import change_optimizer, change_start
from .refusing import CannotSwap, check_holder, check_model
from .running import check_runs
from .stages import STRIDES, architecture, choose_stages

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
PAD = 32  # pixels: the stride of the last stage
LARGE_UPERNET = 0.3  # drop path rate of Twins-SVT-L in our segmentation recipes


@dataclass(frozen=True)
class Plan:
    """What changes in a config.

    Args:
        changes: Changes of the whole config; a dict with ``_delete_`` replaces another, :class:`Edits` change a list.
        reasons: Reasons for changes, by key.
        path: Keys of the segmentor or the detector, from the top of the config.
        old, new: Maps of the old and the new backbone: channels, and strides in pixels.
        depths: Blocks in each stage of the new backbone.
    """

    changes: dict[str, Any]
    reasons: dict[str, str]
    path: tuple[str, ...]
    old: list[Feature]
    new: list[Feature]
    depths: tuple[int, ...]


def swap_backbone(cfg: Config, arch: str = 'svt-s') -> Config:
    """Put a Twins backbone with ImageNet weights into a config of MMSegmentation or MMDetection.

    What depends on the old backbone is adapted: necks and heads, normalisation of images, optimizer and starting weights.
    ``mmtwins swap`` writes the same as a short config that inherits the base.

    Args:
        cfg: Any config of a segmentor, a detector, or a tracker or semi-supervised wrapper of a detector. It is not changed.
        arch: ``'svt-s'``, ``'svt-b'``, ``'svt-l'``, ``'pcpvt-s'``, ``'pcpvt-b'`` or ``'pcpvt-l'``.

    Returns:
        The new config.

    Raises:
        ValueError: There is no such architecture, or the model cannot take Twins; the message gives the reason.
    """
    swapped = copy.deepcopy(cfg)
    _apply(plan_swap(cfg, arch).changes, swapped)
    return swapped


def plan_swap(cfg: Config, arch: str) -> Plan:
    """Find what changes in a config with a Twins backbone.

    Args:
        cfg: The base. It is not changed.
        arch: As for :func:`swap_backbone`.

    Returns:
        The plan.

    Raises:
        ValueError: As :func:`swap_backbone`.
    """
    kind, size, dims = architecture(arch)
    model = cfg.get('model')
    if not isinstance(model, dict):
        raise CannotSwap('it has no model: give the config of a segmentor or a detector, not one of its parts')
    check_model(model)
    path, holder = _find_holder(model)
    check_holder(holder)
    is_segmentor = 'decode_head' in holder
    old_backbone = holder['backbone']
    old = measure_backbone(cfg, old_backbone)
    stages = choose_stages(old, is_segmentor, old_backbone)
    new = [Feature(dims['embed_dims'][i], STRIDES[i]) for i in stages]
    settings: dict[str, Any] = dict(type=kind, arch=size)
    if kind == 'TwinsSVTBackbone':
        settings['window_padding'] = 'masked' if is_segmentor else 'zero'
    settings['drop_path_rate'] = LARGE_UPERNET if arch == 'svt-l' and is_segmentor else 0.2
    if stages != (0, 1, 2, 3):
        settings['out_indices'] = stages
    if old_backbone.get('with_cp'):
        settings['with_cp'] = True
    backbone: Any = build_on_meta(cfg, settings)
    weights = dict(type='Pretrained', checkpoint=f'imagenet:{arch.partition("-")[0]}-{size}')
    changes, reasons = change_start(cfg, path)
    inner = _at(changes, path)
    consumers, more = change_consumers(cfg, holder, old, new)
    inner['backbone'] = {'_delete_': True, **settings, 'init_cfg': weights}
    inner.update(consumers)
    reasons.update(more, backbone=_describe(old_backbone, old, new))
    _change_images(cfg, path, is_segmentor, changes, reasons)
    training, more = change_optimizer(cfg, holder, backbone)
    changes.update(training)
    reasons.update(more)
    _change_imports(cfg, changes)
    swapped = copy.deepcopy(cfg)
    _apply(changes, swapped)
    check_runs(cfg, swapped, path)
    return Plan(changes, reasons, path, old, new, tuple(dims['depths'][: max(stages) + 1]))


def _find_holder(model: Mapping[str, Any]) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """The segmentor or detector with a backbone: the model itself or the one that it wraps, and its path."""
    layer: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [(('model',), model)]
    while layer:
        for path, part in layer:
            backbone = part.get('backbone')
            if isinstance(backbone, dict) and 'type' in backbone:
                return path, part
        layer = [
            ((*path, key), value)
            for path, part in layer
            for key, value in part.items()
            if isinstance(value, dict) and 'type' in value and key != 'reid'
        ]
    raise CannotSwap('it has no backbone of its own: no part of the model is called backbone')


def _describe(backbone: Mapping[str, Any], old: list[Feature], new: list[Feature]) -> str:
    """What the new backbone replaces, and which options are lost."""
    text = (
        f'in place of {type_of(backbone)}, whose maps have {_listed(f.channels for f in old)} channels '
        f'at stride {_listed(f.stride for f in old)}'
    )
    if [f.stride for f in old] != [f.stride for f in new]:
        text += f'; those of Twins have stride {_listed(f.stride for f in new)}'
    lost = [key for key in ('plugins', 'dcn') if backbone.get(key)]
    if lost:
        text += f'; its {" and ".join(lost)} are removed'
    return text


def _listed(numbers: Iterator[int]) -> str:
    return ', '.join(map(str, numbers))


def _change_images(
    cfg: Config, path: tuple[str, ...], is_segmentor: bool, changes: dict[str, Any], reasons: dict[str, str]
) -> None:
    """Normalise images as the ImageNet weights need it, wherever the model or its wrapper normalises them."""
    part: Any = cfg
    for i in range(len(path) + 1):  # a model without a preprocessor gets that of the config from the Runner
        part = part[path[i - 1]] if i else cfg
        processor, place = part.get('data_preprocessor'), (*path[:i], 'data_preprocessor')
        if not i and cfg.model.get('data_preprocessor'):
            continue
        while isinstance(processor, dict):
            if 'data_preprocessor' not in processor:  # else it is for several branches; the inner one normalises
                change, more = _change_processor(processor, is_segmentor)
                if change:
                    _at(changes, place).update(change)
                reasons.update(more)
            processor, place = processor.get('data_preprocessor'), (*place, 'data_preprocessor')


def _change_processor(processor: Mapping[str, Any], is_segmentor: bool) -> tuple[dict[str, Any], dict[str, str]]:
    wanted = dict(IMAGENET)
    is_classifier = 'to_rgb' in processor
    if is_classifier:
        wanted['to_rgb'] = wanted.pop('bgr_to_rgb')
    change = {key: value for key, value in wanted.items() if plain(processor.get(key)) != value}
    reasons = {}
    if change:
        reasons['data_preprocessor'] = 'the ImageNet weights were trained with this normalisation'
    if processor.get('rgb_to_bgr') and 'bgr_to_rgb' in change:
        change['rgb_to_bgr'] = False
    if not is_segmentor and not is_classifier and (processor.get('pad_size_divisor') or 1) % PAD:
        change['pad_size_divisor'] = PAD
        reasons['pad_size_divisor'] = 'Twins drops rows and columns that do not fill a patch of its last stage'
    return change, reasons


def _change_imports(cfg: Config, changes: dict[str, Any]) -> None:
    """Import this package besides what the base imports."""
    given = cfg.get('custom_imports') or {}
    imports = given.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if 'mmtwins' not in imports:
        may_fail = bool(given.get('allow_failed_imports', False))
        changes['custom_imports'] = dict(imports=[*imports, 'mmtwins'], allow_failed_imports=may_fail)


def _at(changes: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        changes = changes.setdefault(key, {})
    return changes


def _apply(changes: Mapping[Any, Any], target: Any) -> None:
    """Make changes in a config, a dict of it or a list of it, in place."""
    for key, change in changes.items():
        if isinstance(change, Edits) and isinstance(target[key], tuple):
            target[key] = list(target[key])
        exists = isinstance(key, int) or target.get(key) is not None
        if isinstance(change, dict) and exists and '_delete_' not in change:
            _apply(change, target[key])
        else:
            value = copy.deepcopy(change)
            if isinstance(value, dict):
                value.pop('_delete_', None)
                value = ConfigDict(value)
            target[key] = value
