"""What the 34 recipes draw for every parameter beside the backbone is what the public stack drew.

The table below was read off MMSegmentation 0.12, MMDetection 2.8 and mmcv 1.2.5, the libraries of the published runs.
"""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmengine.config import Config
from recipes import RECIPES, Recipe
from tiny import TINY

from mmtwins.engine.model import build_model


class Draw(NamedTuple):
    """A distribution around 0: its standard deviation, its kurtosis, and the largest value that it has."""

    std: float
    kurtosis: float
    largest: float = math.inf


def normal(std: float) -> Callable[..., Draw]:
    return lambda fan_in, fan_out: Draw(std, 3.0)


def kaiming_normal(fan_in: int, fan_out: int) -> Draw:
    return Draw(math.sqrt(2 / fan_out), 3.0)


def xavier_uniform(fan_in: int, fan_out: int) -> Draw:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return Draw(bound / math.sqrt(3), 1.8, bound)


# By patterns of which exactly one fits the name of a parameter: a distribution, or the one value that it has.
Table = dict[str, Callable[..., Draw] | float]
# mmcv/cnn/bricks/conv_module.py: a ConvModule initialises itself when it is made; fan_out and ReLU are kaiming_init's defaults.
# It has a bias or a norm.
CONV: Table = {r'conv\.weight': kaiming_normal, r'conv\.bias': 0.0}
CONV_NORM: Table = {r'conv\.weight': kaiming_normal, r'bn\.weight': 1.0, r'bn\.bias': 0.0}


def within(prefix: str, table: Table) -> Table:
    return {rf'{prefix}\.{pattern}': rule for pattern, rule in table.items()}


# mmdet/models/detectors/{two,single}_stage.py call the neck's init_weights (mmdet/models/necks/fpn.py).
DETECTION_NECK = within(r'neck\.(lateral|fpn)_convs\.\d', {r'conv\.weight': xavier_uniform, r'conv\.bias': 0.0})
# mmseg/models/decode_heads/decode_head.py initialises conv_seg alone, for every head.
CLASSIFIER: Table = {r'conv_seg\.weight': normal(0.01), r'conv_seg\.bias': 0.0}
TABLES: dict[str, Table] = {
    'upernet': {
        **within('decode_head', CLASSIFIER),
        **within(r'decode_head\.(psp_modules\.\d\.1|bottleneck|(lateral|fpn)_convs\.\d|fpn_bottleneck)', CONV_NORM),
        **within('auxiliary_head', CLASSIFIER),
        **within(r'auxiliary_head\.convs\.0', CONV_NORM),
    },
    'fpn': {
        # mmseg/models/segmentors/encoder_decoder.py does not call the neck's init_weights, which would be Xavier's.
        **within(r'neck\.(lateral|fpn)_convs\.\d', CONV),
        **within('decode_head', CLASSIFIER),
        **within(r'decode_head\.scale_heads\.\d\.\d', CONV_NORM),
    },
    'mask-rcnn': {
        **DETECTION_NECK,
        # mmdet/models/dense_heads/rpn_head.py
        **within(r'rpn_head\.rpn_(conv|cls|reg)', {'weight': normal(0.01), 'bias': 0.0}),
        # mmdet/models/roi_heads/bbox_heads/{bbox_head,convfc_bbox_head}.py
        **within(r'roi_head\.bbox_head\.shared_fcs\.\d', {'weight': xavier_uniform, 'bias': 0.0}),
        **within(r'roi_head\.bbox_head\.fc_cls', {'weight': normal(0.01), 'bias': 0.0}),
        **within(r'roi_head\.bbox_head\.fc_reg', {'weight': normal(0.001), 'bias': 0.0}),
        # mmdet/models/roi_heads/mask_heads/fcn_mask_head.py
        **within(r'roi_head\.mask_head\.convs\.\d', CONV),
        **within(r'roi_head\.mask_head\.(upsample|conv_logits)', {'weight': kaiming_normal, 'bias': 0.0}),
    },
    'retinanet': {
        **DETECTION_NECK,
        # mmdet/models/dense_heads/retina_head.py: each class starts with a probability of 0.01.
        **within(r'bbox_head\.(cls|reg)_convs\.\d\.conv', {'weight': normal(0.01), 'bias': 0.0}),
        **within(r'bbox_head\.retina_cls', {'weight': normal(0.01), 'bias': -math.log(99)}),
        **within(r'bbox_head\.retina_reg', {'weight': normal(0.01), 'bias': 0.0}),
    },
}


class Values(NamedTuple):
    """A parameter's shape and, over its values, extremes, mean, standard deviation and kurtosis."""

    shape: tuple[int, ...]
    low: float
    high: float
    mean: float
    std: float
    kurtosis: float


def measure(parameter: torch.Tensor) -> Values:
    x = parameter.detach().double()
    mean, variance = x.mean(), x.var(correction=0)
    kurtosis = (x - mean).pow(4).mean() / variance**2
    numbers = (x.min(), x.max(), mean, variance.sqrt(), kurtosis)
    return Values(tuple(x.shape), *(number.item() for number in numbers))


@cache
def draw_heads(model: str, scope: str) -> dict[str, Values]:
    """Initialise a model, given as JSON without its backbone, as MMEngine's Runner does; measure all but the backbone."""
    cfg = Config(dict(model=json.loads(model), default_scope=scope))
    cfg.model.backbone = dict(type='TwinsSVTBackbone', arch=TINY)  # necks and heads are made without it
    torch.manual_seed(0)
    built = build_model(cfg)
    built.init_weights()
    return {name: measure(p) for name, p in built.named_parameters() if not name.startswith('backbone.')}


def heads_of(recipe: Recipe) -> dict[str, Values]:
    """Measured once for all recipes whose models differ in their backbones alone."""
    heads = {key: value for key, value in recipe.cfg.model.to_dict().items() if key != 'backbone'}
    return draw_heads(json.dumps(heads, sort_keys=True), recipe.cfg.default_scope)


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe.name)
def test_initial_weights_beside_the_backbone_are_drawn_as_in_the_published_run(recipe: Recipe) -> None:
    table, used = TABLES[recipe.head], set()
    for name, values in heads_of(recipe).items():
        (pattern,) = (pattern for pattern in table if re.fullmatch(pattern, name))
        used.add(pattern)
        rule = table[pattern]
        if isinstance(rule, float):
            assert values.low == values.high == pytest.approx(rule, rel=1e-6), name
            continue
        # Fans as torch counts them, which for transposed convolutions takes the first axis for the output, too.
        count, field = math.prod(values.shape), math.prod(values.shape[2:])
        expected = rule(values.shape[1] * field, values.shape[0] * field)
        # Five standard deviations of the mean, the standard deviation and the kurtosis of that many values.
        assert abs(values.mean) <= 5 * expected.std / math.sqrt(count), name
        assert values.std == pytest.approx(expected.std, rel=5 * math.sqrt((expected.kurtosis - 1) / (4 * count))), name
        assert values.kurtosis == pytest.approx(expected.kurtosis, abs=5 * math.sqrt(24 / count)), name
        assert max(-values.low, values.high) <= expected.largest * (1 + 1e-6), name
    assert used == set(table)
