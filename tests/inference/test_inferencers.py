"""The libraries' inferencers, made from configs and checkpoints, and what is refused."""

import pytest
import torch
from mmengine.config import Config
from recipes import CONFIGS, NAMES
from torch import nn
from toys import SEGMENTOR

from mmtwins.engine.config import load_config
from mmtwins.inference.inferencers import load_inferencer, load_weights, prepare_config

for package in ('mmseg', 'mmdet', 'mmcv._ext'):
    pytest.importorskip(package)


@pytest.mark.parametrize('name', NAMES)
def test_the_pipelines_of_the_recipes_take_an_image_alone(name):
    cfg = load_config(str(next(CONFIGS.glob(f'*/{name}.py'))))
    library = prepare_config(cfg, name)
    assert library == ('mmseg' if 'ade20k' in name else 'mmdet')
    kinds = [step['type'] for step in cfg.test_dataloader.dataset.pipeline]
    assert kinds == [
        'LoadImageFromFile',
        'CheckImage',
        'Resize',
        'PackSegInputs' if library == 'mmseg' else 'PackDetInputs',
    ]


def test_configs_that_are_not_for_predictions():
    for text, message in (
        ("default_scope = 'mmrotate'", "default_scope is 'mmrotate', predictions need mmseg or mmdet"),
        ("default_scope = 'mmpretrain'", 'c.py is a classifier, which `mmtwins predict` and `mmtwins test` take'),
        ("default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder')", 'lacks'),
    ):
        with pytest.raises(ValueError, match=message):
            prepare_config(Config.fromstring(text, '.py'), 'c.py')


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        ({}, dict(backend='checked', decoder='cv2', backend_args=None)),
        (dict(imdecode_backend='pillow'), dict(backend='checked', decoder='pillow', backend_args=None)),
        (
            dict(backend_args=dict(backend='petrel')),
            dict(backend='checked', decoder='cv2', backend_args=dict(backend='petrel')),
        ),
        (dict(backend_args=dict(backend='checked')), dict(backend='checked')),
        (dict(file_client_args=dict(backend='disk')), None),
    ],
)
def test_images_are_read_through_the_checks(given, expected):
    cfg = load_config(str(SEGMENTOR))
    cfg.test_dataloader.dataset.pipeline = [dict(type='LoadImageFromFile', **given), dict(type='PackSegInputs')]
    prepare_config(cfg, 'c.py')
    assert cfg.test_dataloader.dataset.pipeline[0].get('backend_args') == expected


def test_errors_of_configs_and_checkpoints(toy_checkpoints, tmp_path):
    with pytest.raises(ValueError, match=r'checkpoint .*mmseg\.pth: '):
        load_inferencer(CONFIGS / 'ade20k/fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py', toy_checkpoints['mmseg'], 'cpu')
    with pytest.raises(FileNotFoundError, match=r'none\.pth does not exist'):
        load_inferencer(SEGMENTOR, tmp_path / 'none.pth', 'cpu')
    other = tmp_path / 'other.py'
    resnet = "dict(_delete_=True, type='ResNet', depth=18, num_stages=4)"
    other.write_text(f"_base_ = '{SEGMENTOR}'\nmodel = dict(backbone={resnet})\n")
    with pytest.raises(ValueError, match='EncoderDecoder has no Twins backbone'):
        load_inferencer(other, toy_checkpoints['mmseg'], 'cpu')
    other.write_text("default_scope = 'mmrotate'\n")
    with pytest.raises(
        ValueError,
        match=r"default_scope is 'mmrotate', (predictions need|no package)",
    ):
        load_inferencer(other, toy_checkpoints['mmseg'], 'cpu')


def test_any_public_checkpoint(toy_checkpoints, tmp_path):
    """A backbone alone, in mmseg's own names: attention needs no heads."""
    from mmtwins.weights.converting import from_native

    weights = torch.load(toy_checkpoints['mmseg'])['state_dict']
    backbone = {
        name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')
    }
    torch.save(from_native(backbone, 'mmseg'), tmp_path / 'mmseg.pth')
    loaded = load_inferencer(SEGMENTOR, tmp_path / 'mmseg.pth', 'cpu').model.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in backbone.items())


def test_weights_of_a_model_without_twins_must_all_be_there():
    model = nn.ModuleDict(dict(a=nn.Linear(2, 3), auxiliary_head=nn.Linear(3, 3)))
    weights = {name: torch.ones_like(value) for name, value in model.state_dict().items() if name.startswith('a.')}
    load_weights(model, weights)
    assert all((parameter == 1).all() for parameter in model['a'].parameters())
    with pytest.raises(ValueError, match=r'1 weights of the model are not in it, such as a\.bias'):
        load_weights(model, {'a.weight': weights['a.weight']})
    with pytest.raises(ValueError, match=r'a\.weight is \(1, 1\) in the checkpoint, \(3, 2\) in the model'):
        load_weights(model, {**weights, 'a.weight': torch.ones(1, 1)})
