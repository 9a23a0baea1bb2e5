"""Find the channels and strides of the maps of a backbone or a neck, by building and running it."""

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import Tensor, nn

from ..engine.config_sections import type_of
from ..engine.model import build_model
from .refusing import CannotSwap

SIDES = (256, 224, 512)  # of the image, in pixels; the first that a backbone takes
NECK_SIDES = (256, 320)  # the same for necks; some need larger maps


class Feature(NamedTuple):
    """One map of features: its channels, and its stride in pixels of the image."""

    channels: int
    stride: int


def measure_backbone(cfg: Config, backbone: Mapping[str, Any]) -> list[Feature]:
    """Build a backbone without its weights, run it on one image, and measure its maps.

    Args:
        cfg: Config that the backbone is from, for its default scope.
        backbone: Config of the backbone.

    Returns:
        Channels, and stride in pixels, of each map, in the backbone's order.

    Raises:
        CannotSwap: It cannot be built or run, or gives something else than maps (B, C, H, W).
    """
    name = type_of(backbone)
    settings = {key: value for key, value in dict(backbone).items() if key not in ('init_cfg', 'pretrained')}
    sides = [_side_of(backbone.get('img_size')), *SIDES]
    channels = backbone.get('in_channels', 3)
    errors = []
    for device in ('meta', 'cpu'):  # some backbones read values, and some operators need a real device
        try:
            module = _build(cfg, settings, device)
        except (ImportError, KeyError) as error:
            raise CannotSwap(f'its backbone {name} cannot be built here: {_line(error)}') from error
        except Exception as error:
            errors.append(error)
            continue
        for side in filter(None, sides):
            try:
                outs = _run(module, torch.zeros(1, channels, side, side, device=device))
            except Exception as error:
                errors.append(error)
                continue
            return _features(name, outs, side)
    raise CannotSwap(f'its backbone {name} cannot be run here: {_line(errors[-1])}') from errors[-1]


def measure_neck(cfg: Config, neck: Mapping[str, Any], features: Sequence[Feature]) -> list[Feature]:
    """Build a neck, run it on maps of zeros, and measure its maps.

    Args:
        cfg: Config that the neck is from, for its default scope.
        neck: Config of the neck.
        features: Maps that it takes.

    Returns:
        Channels, and stride in pixels, of each map that it gives.

    Raises:
        Exception: Whatever the neck raises.
    """
    settings = {key: value for key, value in dict(neck).items() if key != 'init_cfg'}
    errors: list[Exception] = []
    for device in ('meta', 'cpu'):
        for side in NECK_SIDES:
            maps = [torch.zeros(1, c, side // s, side // s, device=device) for c, s in features]
            try:
                return _features(type_of(neck), _run(_build(cfg, settings, device), tuple(maps)), side)
            except Exception as error:
                errors.append(error)
    raise errors[-1]


def _build(cfg: Config, settings: dict[str, Any], device: str) -> nn.Module:
    with torch.device('meta') if device == 'meta' else contextlib.nullcontext():
        module = build_model(cfg, copy.deepcopy(settings))
    module.eval()  # returns None in MMDetection's ResNet
    return module


@torch.no_grad()
def _run(module: nn.Module, x: Tensor | tuple[Tensor, ...]) -> Any:
    return module(x)


def _features(name: str, outs: Any, side: int) -> list[Feature]:
    if isinstance(outs, Tensor):
        outs = [outs]
    if not isinstance(outs, list | tuple) or not all(isinstance(out, Tensor) and out.dim() == 4 for out in outs):
        raise CannotSwap(f'its {name} gives something else than maps of features (B, C, H, W), such as class tokens')
    return [Feature(out.shape[1], round(side / out.shape[3])) for out in outs]


def _side_of(size: Any) -> int | None:
    if isinstance(size, Sequence) and not isinstance(size, str):
        size = size[0] if size else None
    return size if isinstance(size, int) else None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip('.') if lines else type(error).__name__
