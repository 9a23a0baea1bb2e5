"""The text of a swapped config."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config

import mmtwins
from mmtwins.engine.config import load_config
from mmtwins.swapping.planning import Plan, plan_swap
from mmtwins.swapping.writing import WIDTH, write_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

MAE = 'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
OCRNET = 'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py'
BASES = (
    pytest.param(OCRNET, marks=pytest.mark.slow),  # a list of heads
    'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',  # AdamW with rules
    'mmdet::dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py',  # a list of necks
    pytest.param(MAE, marks=pytest.mark.slow),  # a neck that goes, rates by layer
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.01-coco.py',
)


@pytest.mark.parametrize('base', BASES)
def test_the_text_gives_the_same_config_as_the_function(base: str, tmp_path: Path) -> None:
    cfg = load_config(base)
    plan = plan_swap(cfg, 'svt-b')
    text = write_config(plan, base, 'svt-b')
    assert write_config(plan, base, 'svt-b') == text
    assert max(map(len, text.splitlines())) <= WIDTH + 10
    assert len(text.splitlines()) < 60
    path = tmp_path / 'own.py'
    path.write_text(text)
    written, swapped = load_config(str(path)), mmtwins.swap_backbone(cfg, 'svt-b')
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'custom_imports'):
        assert without_scope(written.get(key)) == without_scope(swapped.get(key)), key


def without_scope(value: object) -> object:
    """Without the library that MMEngine adds to what comes from ``mmdet::...``."""
    if isinstance(value, dict):
        return {key: without_scope(one) for key, one in value.items() if key != '_scope_'}
    return [without_scope(one) for one in value] if isinstance(value, list | tuple) else value


def test_the_text_is_short_and_says_why() -> None:
    cfg = load_config('mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py')
    text = write_config(plan_swap(cfg, 'svt-s'), '../base.py', 'svt-s')
    assert text.startswith('# Twins-SVT-S in the base below, written by `mmtwins swap --arch svt-s`.\n')
    assert "_base_ = '../base.py'\n" in text
    assert '    # In place of ResNetV1c, whose maps have 256, 512, 1024, 2048 channels at stride 4, 8, 8, 8;' in text
    assert "    # UPerNet's published recipe, for 16 images a step, in place of SGD with 0.01.\n" in text
    assert '    decode_head=dict(in_channels=512),\n    auxiliary_head=dict(in_channels=256),\n' in text
    assert text.count('_delete_=True') == 2
    assert re.search(r"param_scheduler = _base_\.param_scheduler\nparam_scheduler\[0\]\['eta_min'\] = 6e-07\n", text)


def test_values_and_comments_are_written_as_python(tmp_path: Path) -> None:
    changes = dict(
        model=dict(backbone=dict(_delete_=True, type='A', sizes=(1,)), pairs={'a.b': [1, 'x']}), load_from=None
    )
    plan = Plan(changes, dict(backbone='a reason', load_from='another'), ('model',), [], [], (1,))
    (tmp_path / 'base.py').write_text("model = dict(backbone=dict(type='B', old=1), other=2)\nload_from = 'x'\n")
    text = write_config(plan, 'base.py', 'pcpvt-l')
    (tmp_path / 'own.py').write_text(text)
    assert '# Another.\nload_from = None\n' in text
    assert '    # A reason.\n    backbone=dict(' in text
    cfg = Config.fromfile(tmp_path / 'own.py')
    assert cfg.model == dict(backbone=dict(type='A', sizes=(1,)), other=2, pairs={'a.b': [1, 'x']})
    assert cfg.load_from is None
