"""The command that writes a config with another backbone."""

from pathlib import Path

import pytest

from mmtwins import TwinsSVTBackbone
from mmtwins.commands.swap import ARCHS, main, swapped_text
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_on_meta
from mmtwins.swapping import stages

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

FCN = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
LAZY = """
from mmdet.models import FPN, DetDataPreprocessor, ResNet, RetinaHead, RetinaNet
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler import CosineAnnealingLR
from torch.optim import {optimizer}

default_scope = 'mmdet'
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[103.53, 116.28, 123.675], std=[1.0] * 3, pad_size_divisor=32),
    backbone=dict(type=ResNet, depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')),
    neck=[dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=256, num_outs=5)],
    bbox_head=dict(type=RetinaHead, num_classes=80, in_channels=256),
)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type={optimizer}, lr=0.01, weight_decay=1e-4), clip_grad=dict(max_norm=35)
)
param_scheduler = [dict(type=CosineAnnealingLR, eta_min=1e-3, T_max=10)]
load_from = 'x.pth'
"""


def test_the_architectures_are_those_of_the_room() -> None:
    assert ARCHS == stages.ARCHS


def test_the_command_writes_a_config_twice_the_same(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / 'deep/own.py'
    main([FCN, '--arch', 'svt-b', '--out', str(out)])
    text = out.read_text()
    assert f"_base_ = '{FCN}'" in text
    assert 'train it with `mmtwins train' in capsys.readouterr().out
    main([FCN, '--arch', 'svt-b', '--out', str(out)])
    assert out.read_text() == text
    assert load_config(str(out)).model.decode_head.in_channels == 768


def test_a_path_is_inherited_from_the_folder_of_the_new_config(tmp_path: Path) -> None:
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/base.py').write_text(f'_base_ = {FCN!r}\n')
    main([str(tmp_path / 'a/base.py'), '--out', str(tmp_path / 'b/own.py')])
    assert "_base_ = '../a/base.py'" in (tmp_path / 'b/own.py').read_text()
    assert load_config(str(tmp_path / 'b/own.py')).model.backbone.type == 'TwinsSVTBackbone'


@pytest.mark.parametrize('optimizer', ['SGD', 'AdamW'])
def test_a_lazy_config_gets_a_lazy_heir(optimizer: str, tmp_path: Path) -> None:
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/base.py').write_text(LAZY.format(optimizer=optimizer))
    out = tmp_path / 'own/heir.py'
    main([str(tmp_path / 'configs/base.py'), '--arch', 'svt-b', '--out', str(out)])
    assert 'with read_base():\n    from ..configs.base import *' in out.read_text()
    cfg = load_config(str(out))
    assert cfg.model.backbone.type is TwinsSVTBackbone
    assert 'depth' not in cfg.model.backbone
    assert cfg.model.neck[0].in_channels == [96, 192, 384, 768]
    assert cfg.model.data_preprocessor.bgr_to_rgb is True
    assert cfg.load_from is None
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35)
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    if optimizer == 'SGD':
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
        assert cfg.param_scheduler[0].eta_min == 1e-5
    else:
        assert cfg.param_scheduler[0].eta_min == 1e-3
        assert keys['backbone.blocks.2.17.attn.norm'] == dict(decay_mult=0.0)
    assert isinstance(build_on_meta(cfg).backbone, TwinsSVTBackbone)


@pytest.mark.parametrize(
    ('base', 'out', 'message'),
    [
        (
            'mmseg::icnet/icnet_r50-d8_4xb2-80k_cityscapes-832x832.py',
            'own.py',
            'cannot take Twins: its backbone is the',
        ),
        ('mmseg::fcn/nope.py', 'own.py', 'which mmseg does not have'),
        ('nowhere::a.py', 'own.py', 'there is no package nowhere'),
        ('nowhere.py', 'own.py', 'config nowhere.py does not exist'),
        (FCN, 'own.txt', 'name a file that ends in .py'),
    ],
)
def test_what_is_wrong_ends_in_one_sentence(base: str, out: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main([base, '--out', str(tmp_path / out)])
    assert message in str(ended.value)
    assert not (tmp_path / out).exists()


def test_the_base_is_not_overwritten(tmp_path: Path) -> None:
    base = tmp_path / 'base.py'
    base.write_text(f'_base_ = {FCN!r}\n')
    with pytest.raises(ValueError, match='is the base itself'):
        swapped_text(str(base), 'svt-s', str(base))


def test_what_the_base_inherits_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / 'inner.py').write_text(f'_base_ = {FCN!r}\n')
    (tmp_path / 'base.py').write_text("_base_ = ['inner.py']\n")
    with pytest.raises(ValueError, match=r'inner\.py is a file that .*base\.py inherits: name another file'):
        swapped_text(str(tmp_path / 'base.py'), 'svt-s', str(tmp_path / 'inner.py'))


def test_a_folder_that_is_a_link(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / 'far/away').mkdir(parents=True)
    (tmp_path / 'near').symlink_to(tmp_path / 'far/away')
    base = tmp_path / 'base ü.py'
    base.write_text(f'_base_ = {FCN!r}\n')
    out = tmp_path / 'near/my own.py'
    main([str(base), '--out', str(out)])
    assert load_config(str(out)).model.backbone.type == 'TwinsSVTBackbone'
    assert f"mmtwins train '{out}'`" in capsys.readouterr().out


def test_a_lazy_base_that_python_cannot_import_is_refused(tmp_path: Path) -> None:
    base = tmp_path / 'my-base.py'
    base.write_text(LAZY.format(optimizer='SGD'))
    with pytest.raises(
        ValueError, match=r'Python cannot import my-base: copy it to a file whose path has only letters'
    ):
        swapped_text(str(base), 'svt-s', str(tmp_path / 'own.py'))
