"""What the backbone starts from: each source, the share of its weights, and who is told loudly of random ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmtwins.analysis.recipe import find_published_run
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_on_meta
from mmtwins.engine.start import start_from_scratch
from mmtwins.engine.starting_weights import describe_weights
from mmtwins.weights.applying import FittedCheckpoint, fit_file

CONFIGS = Path(__file__).parents[2] / 'configs'
UPERNET = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
MASK_RCNN = CONFIGS / 'coco' / 'mask-rcnn_twins-pcpvt-b_fpn_8xb2-1x_coco.py'
TOY = next((CONFIGS / 'toy').glob('upernet*.py'))
BACKBONE = dict(type='TwinsSVTBackbone', arch='small', out_indices=(0, 1, 2, 3))


def describe(cfg: Config, checkpoints: dict | None = None, from_scratch: bool = False) -> tuple[str, bool]:
    run = find_published_run(cfg)
    if from_scratch:
        start_from_scratch(cfg)
    line = describe_weights(cfg, build_on_meta(cfg), checkpoints or {}, from_scratch, run and run.name)
    assert line.subject == 'weights'
    return line.text, line.is_loud


def random_weights(cfg: Config, part: Any = None) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(value.shape) for name, value in build_on_meta(cfg, part).state_dict().items()}


def load(path: Path, **options: Any) -> Config:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    return load_config(str(path), options)


def test_a_classifier_leaves_the_norms_of_the_stages() -> None:
    cfg = load(UPERNET)
    weights = random_weights(cfg, cfg.model.backbone)
    total = sum(value.numel() for value in weights.values())
    expected = {name: value for name, value in weights.items() if not name.startswith('norm_list.')}
    classifier = {**expected, 'head.weight': torch.zeros(1000, 512), 'head.bias': torch.zeros(1000)}
    classifier |= {f'norm.{name}': torch.zeros(512) for name in ('weight', 'bias')}
    checkpoint = FittedCheckpoint(classifier, fit_file(classifier, weights))
    share = sum(value.numel() for value in expected.values()) / total
    assert 0.9999 < share < 1
    assert describe(cfg, {'imagenet:svt-small': checkpoint}) == (
        "imagenet:svt-small: 99.99% of the backbone's weights; norm_list.0.weight and 7 more start afresh",
        False,
    )


@pytest.mark.parametrize('path', [UPERNET, MASK_RCNN])
def test_a_published_recipe_with_random_weights_is_told_loudly(path: Path) -> None:
    name = 'svt-small' if path == UPERNET else 'pcpvt-base'
    remedy = f"give the backbone init_cfg=dict(type='Pretrained', checkpoint='imagenet:{name}')"
    assert describe(load(path, **{'model.backbone.init_cfg': None})) == (
        f'RANDOM: {path.stem} starts from ImageNet weights, without them its numbers will not come; {remedy}',
        True,
    )
    assert describe(load(path), from_scratch=True) == (
        f'RANDOM, as --from-scratch asks: the published numbers of {path.stem} will not come',
        True,
    )


def test_own_configs_with_random_weights() -> None:
    toy = load(TOY)  # an architecture without published weights
    assert describe(toy) == ('random: the config names no checkpoint', False)
    assert describe(toy, from_scratch=True) == ('random, as --from-scratch asks', False)
    assert describe(Config(dict(model=BACKBONE))) == ('random: the config names no checkpoint', False)
    own = load(UPERNET, **{'model.decode_head.num_classes': 5, 'model.backbone.init_cfg': None})
    assert describe(own) == (
        'RANDOM: the config names no checkpoint; give the backbone '
        "init_cfg=dict(type='Pretrained', checkpoint='imagenet:svt-small'), or ask for random ones with --from-scratch",
        True,
    )
    assert describe(own, from_scratch=True) == ('random, as --from-scratch asks', False)


def test_a_checkpoint_of_the_whole_model_and_one_to_resume() -> None:
    cfg = load(TOY)
    cfg.load_from = 'a.pth'
    weights = random_weights(cfg)
    raw = dict(state_dict=weights, meta=dict(iter=12_000, epoch=0))
    for checkpoint in (raw, FittedCheckpoint(raw, fit_file(raw, weights))):
        assert describe(cfg, {'a.pth': checkpoint}) == ("a.pth: all of the backbone's weights", False)
    cfg.resume = True
    assert describe(cfg, {'a.pth': raw}) == ("a.pth, resumed at iteration 12,000: all of the backbone's weights", False)
    cfg.resume = False
    bare = {name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')}
    assert describe(cfg, {'a.pth': bare}) == ("a.pth: all of the backbone's weights", False)


def test_other_backbones_and_schemes_that_mmengine_loads() -> None:
    cfg = load(UPERNET)
    cfg.model.backbone = dict(
        type='ResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')
    )
    assert describe(cfg) == ('torchvision://resnet18, which MMEngine loads; its share is not known', False)
    weights = random_weights(cfg, cfg.model.backbone)
    cfg.model.backbone.init_cfg = dict(type=PretrainedInit, checkpoint='a.pth', prefix='net.')
    given = {f'net.{name}': value for name, value in weights.items()}
    assert describe(cfg, {'a.pth': given}) == ("a.pth: all of the backbone's weights", False)
    first = {name: value for name, value in given.items() if name.startswith('net.layer1')}
    text, is_loud = describe(cfg, {'a.pth': first})
    share = sum(value.numel() for value in first.values()) / sum(value.numel() for value in weights.values())
    assert text.startswith(f"a.pth: {int(share * 1e4) / 100}% of the backbone's weights; ") and is_loud
    assert text.endswith(f'; conv1.weight and {len(weights) - len(first) - 1} more start afresh')
    cfg.model.backbone = dict(type='ResNet', depth=18, pretrained='b.pth')
    assert describe(cfg) == ('b.pth, which MMEngine loads; its share is not known', False)
