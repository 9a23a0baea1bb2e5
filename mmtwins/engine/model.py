"""Build the model of a config, or a part of it."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from .building import naming_config


def build_model(cfg: Config, part: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model as MMEngine's Runner does, in the scope of the config's library.

    Args:
        cfg: Config with ``model`` and, unless all types are registered by MMEngine, ``default_scope``.
        part: Config of the part to build, such as ``cfg.model.backbone``; None builds ``cfg.model``.

    Returns:
        The model with the weights that its constructor gives it; ``init_weights`` has not been called.

    Raises:
        ValueError: The config describes no model that can be built.
    """
    with naming_config(cfg):
        return _build(cfg, part)


def _build(cfg: Config, part: Mapping[str, Any] | None) -> nn.Module:
    scope = cfg.get('default_scope')
    if part is None and not isinstance(cfg.get('model'), dict):
        raise ValueError(f'{cfg.filename}: model is {cfg.get("model")!r}: write model = dict(type=...)')
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build({'_scope_': scope, **(cfg.model if part is None else part)})


def build_on_meta(cfg: Config, part: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model for its names and shapes alone, without memory for its weights where its classes allow it.

    Args:
        cfg: As for :func:`build_model`.
        part: As for :func:`build_model`.

    Returns:
        The model on the meta device.
    """
    try:
        with torch.device('meta'):
            return _build(cfg, part)
    except Exception:  # a constructor reads values, such as drop path rates; or the config is wrong
        return build_model(cfg, part).to('meta')
