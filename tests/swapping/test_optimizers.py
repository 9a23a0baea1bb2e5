"""Optimizer, schedule and starting weights of a config with another backbone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from tiny import make_tiny
from torch import nn

from mmtwins.swapping.optimizers import change_optimizer, change_start, is_decayed

SEGMENTOR = dict(decode_head=dict(type='PSPHead'))
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
NOT_DECAYED = dict(pos_block=dict(decay_mult=0.0), norm=dict(decay_mult=0.0))


def changes_of(holder: dict, optimizer: dict, schedule: object = None, max_epochs: int = 12, **wrapper: object) -> dict:
    cfg = Config(
        dict(
            optim_wrapper=dict(type='OptimWrapper', optimizer=optimizer, **wrapper),
            param_scheduler=schedule,
            train_cfg=dict(max_epochs=max_epochs),
        )
    )
    return change_optimizer(cfg, holder, make_tiny())[0]


@pytest.mark.parametrize(
    ('holder', 'epochs', 'lr', 'weight_decay'),
    [
        (SEGMENTOR, 0, 6e-5, 0.01),
        (dict(decode_head=[dict(type='FPNHead'), dict(type='PointHead')]), 0, 1e-4, 1e-4),
        (dict(bbox_head={}), 12, 1e-4, 1e-4),
        (dict(rpn_head={}, roi_head={}), 12, 2e-4, 1e-4),
        (dict(rpn_head={}, roi_head={}), 36, 1e-4, 0.05),
    ],
)
def test_adamw_takes_the_place_of_sgd_with_the_rate_of_the_family(holder, epochs, lr, weight_decay) -> None:
    changes = changes_of(holder, SGD, max_epochs=epochs)['optim_wrapper']
    assert set(changes) == {'optimizer', 'paramwise_cfg'}  # clipping and all else stay
    optimizer = changes['optimizer']
    assert (optimizer['_delete_'], optimizer['type']) == (True, 'AdamW')
    assert (optimizer['lr'], optimizer['weight_decay']) == (lr, weight_decay)
    assert 'momentum' not in optimizer
    assert changes['paramwise_cfg'] == dict(custom_keys=NOT_DECAYED)


def test_rates_in_the_schedule_follow_and_factors_stay() -> None:
    schedule = [dict(type='LinearLR', start_factor=0.1), dict(type='PolyLR', power=0.9, eta_min=1e-4)]
    assert changes_of(SEGMENTOR, SGD, schedule)['param_scheduler'] == {1: dict(eta_min=6e-7)}
    assert changes_of(SEGMENTOR, SGD, dict(type='PolyLR', eta_min=1e-4))['param_scheduler'] == dict(eta_min=6e-7)
    assert 'param_scheduler' not in changes_of(SEGMENTOR, SGD, [dict(type='MultiStepLR', gamma=0.1)])


@pytest.mark.parametrize(
    'rules',
    [
        {},
        dict(custom_keys=dict(backbone=dict(lr_mult=0.1, decay_mult=1.0))),
        dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        dict(custom_keys=dict(norm=dict(decay_mult=0.0), absolute_pos_embed=dict(decay_mult=0.0))),
    ],
    ids=str,
)
def test_adamw_of_the_base_stays_and_its_backbone_gets_our_rules(rules: dict) -> None:
    changes = changes_of(dict(bbox_head={}), dict(type='AdamW', lr=1e-4, weight_decay=0.05), paramwise_cfg=rules)
    rule = changes['optim_wrapper']['paramwise_cfg']['custom_keys']
    assert set(changes['optim_wrapper']) == {'paramwise_cfg'}
    model = nn.ModuleDict(dict(backbone=make_tiny(), head=nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg={**rules, 'custom_keys': {**rules.get('custom_keys', {}), **rule}},
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {names[id(group['params'][0])]: group for group in wrapper.optimizer.param_groups}
    for name, group in groups.items():
        if name.startswith('backbone'):
            bias_rule = name.endswith('bias') and 'bias_decay_mult' in rules
            assert group['weight_decay'] == (0.05 if is_decayed(name) and not bias_rule else 0), name
            assert group['lr'] == pytest.approx(1e-5 if 'backbone' in rules.get('custom_keys', {}) else 1e-4)
    assert groups['head.1.weight']['weight_decay'] == (0 if 'norm_decay_mult' in rules else 0.05)
    assert groups['head.0.weight']['lr'] == 1e-4


def test_rates_by_layer_of_another_backbone_go() -> None:
    changes = changes_of(
        SEGMENTOR,
        dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        constructor='LayerDecayOptimizerConstructor',
        paramwise_cfg=dict(num_layers=12, layer_decay_rate=0.65),
    )['optim_wrapper']
    assert changes['constructor'] == 'DefaultOptimWrapperConstructor'
    assert changes['paramwise_cfg'] == dict(custom_keys=NOT_DECAYED, _delete_=True)
    assert changes['optimizer']['lr'] == 6e-5


def test_rules_for_heads_stay_and_a_config_without_optimizer_gets_none() -> None:
    rules = dict(custom_keys=dict(head=dict(lr_mult=10.0)), norm_decay_mult=0.0)
    changes = changes_of(SEGMENTOR, SGD, paramwise_cfg=rules)['optim_wrapper']
    assert '_delete_' not in changes['paramwise_cfg']
    assert change_optimizer(Config(dict(a=1)), SEGMENTOR, make_tiny()) == ({}, {})


def test_checkpoints_of_the_old_backbone_go() -> None:
    pretrained = dict(type='Pretrained', checkpoint='x.pth')
    detector = dict(
        backbone=dict(type='ResNet', init_cfg=pretrained), init_cfg=pretrained, pretrained='torchvision://x'
    )
    cfg = Config(dict(load_from='y.pth', model=dict(detector=detector, reid=dict(init_cfg=pretrained))))
    changes, reasons = change_start(cfg, ('model', 'detector'))
    assert changes == dict(load_from=None, model=dict(detector=dict(pretrained=None, init_cfg=None)))
    assert set(reasons) == {'load_from', 'pretrained', 'init_cfg'}
    kaiming = dict(model=dict(backbone={}, init_cfg=dict(type='Kaiming', layer='Conv2d')))
    assert change_start(Config(kaiming), ('model',)) == (dict(model={}), {})


def test_names_that_are_not_decayed_are_those_of_our_recipes() -> None:
    names = {name for name, _ in make_tiny().named_parameters() if not is_decayed(name)}
    assert {'pos_block.0.proj.0.weight', 'norm_list.3.bias', 'blocks.0.1.attn.norm.weight'} <= names
    assert not any('mlp' in name or 'qkv' in name for name in names)
    assert torch.tensor([make_tiny().get_parameter(name).numel() for name in names]).sum() > 0


def test_factors_of_the_base_for_its_backbone_stay_with_adamw_in_place_of_sgd() -> None:
    rules = dict(custom_keys=dict(backbone=dict(lr_mult=0.25)))
    custom_keys = changes_of(dict(bbox_head={}), SGD, paramwise_cfg=rules)['optim_wrapper']['paramwise_cfg'][
        'custom_keys'
    ]
    model = nn.ModuleDict(dict(backbone=make_tiny(), head=nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
            paramwise_cfg=dict(custom_keys={**rules['custom_keys'], **custom_keys}),
        ),
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        name = names[id(group['params'][0])]
        if name.startswith('backbone'):
            assert group['weight_decay'] == (0.05 if is_decayed(name) else 0), name
        assert group['lr'] == pytest.approx(2.5e-5 if name.startswith('backbone') else 1e-4), name
