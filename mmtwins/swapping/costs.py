"""MACs of a swapped model."""

from contextlib import nullcontext

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope

from ..analysis.counting import build_model as build_on_meta
from ..analysis.counting import count, count_call
from ..engine.model import build_model
from .running import holder_config
from .stand_ins import stand_ins
from .trying import PREPROCESSORS, make_inputs, stand_alone


def count_macs(cfg: Config, path: tuple[str, ...], height: int, width: int) -> tuple[int, bool] | None:
    """Count the MACs of the segmentor or detector in a model.

    Args:
        cfg: Config of the model. It is not changed.
        path: Keys of the segmentor or detector, from the top of the config.
        height, width: Of the image, in pixels.

    Returns:
        MACs for one image, and whether they are those of a prediction, because the model asks for values; None if it
        cannot be counted either way.
    """
    part = holder_config(cfg, path)
    stand_alone(part)
    try:
        return count(build_on_meta(part), height, width).total.macs, False
    except Exception:  # models raise all kinds
        pass
    try:
        return _count_prediction(part, (height, width)), True
    except Exception:
        return None


def _count_prediction(cfg: Config, size: tuple[int, int]) -> int:
    """Count the MACs of a prediction from random weights; a segmentor sees the image whole."""
    if 'head' in cfg.model:
        raise ValueError('a classifier takes images of another size')
    if 'decode_head' in cfg.model:
        cfg.model.test_cfg = dict(cfg.model.get('test_cfg') or {}, mode='whole')
    torch.manual_seed(0)
    repaired = stand_ins() if cfg.default_scope == 'mmdet' else nullcontext()
    with DefaultScope.overwrite_default_scope(cfg.default_scope), repaired:
        model = revert_sync_batchnorm(build_model(cfg))
        model.eval()  # returns None in MMDetection's distillers
        if not cfg.model.get('data_preprocessor'):
            model.data_preprocessor = build_model(cfg, PREPROCESSORS[cfg.default_scope])
        data = model.data_preprocessor(make_inputs(cfg, model, size, training=False, images=1))
        return count_call(lambda: model(**data, mode='predict'))
