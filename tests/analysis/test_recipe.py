"""What configs promise: the published run, batch, learning rates by MMEngine's schedulers, losses of fresh heads."""

import math

import numpy as np
import pytest
from mmengine.config import Config
from runs import CONFIGS, MASK_RCNN, SVT_S, recipe_of

from mmtwins.analysis.published import RUNS
from mmtwins.analysis.recipe import (
    find_published_run,
    fresh_losses,
    images_per_gpu,
    rate_scale,
    scheduled_rates,
    total_batch,
)


@pytest.mark.parametrize('name', RUNS)
def test_each_recipe_is_recognised_by_its_content(name: str) -> None:
    assert find_published_run(recipe_of(name)).name == name


@pytest.mark.parametrize(
    'path',
    [
        'toy/upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py',
        f'ade20k/{SVT_S.replace("-s_", "-s-calibrated_")}.py',
    ],
)
def test_other_recipes_of_ours_are_not_published(path: str) -> None:
    assert find_published_run(Config.fromfile(CONFIGS / path, import_custom_modules=False)) is None


@pytest.mark.parametrize(
    'changes',
    [
        {'model.backbone.type': 'MixVisionTransformer'},
        {'model.backbone.arch': dict(_delete_=True, embed_dims=(8,))},
        {'model.backbone.window_sizes': (8, 8, 8, 8)},
        {'model.decode_head.type': 'FCNHead'},
        {'model.decode_head.num_classes': 19},
        {'model.decode_head': [dict(type='UPerHead')]},
        {'model.data_preprocessor.size': (640, 640)},
        {'model.data_preprocessor.size': None},
        {'train_dataloader.dataset.type': 'CityscapesDataset'},
        {'model': None},
        {'train_dataloader': None},
    ],
)
def test_a_changed_model_or_data_set_is_not_published(changes: dict) -> None:
    assert find_published_run(recipe_of(SVT_S, **changes)) is None


def test_names_of_classes_may_come_with_their_scope_and_the_schedule_may_change() -> None:
    changes = {'model.backbone.type': 'mmtwins.TwinsSVTBackbone', 'optim_wrapper.optimizer.lr': 1.0}
    assert find_published_run(recipe_of(SVT_S, **changes)).name == SVT_S
    assert find_published_run(recipe_of(MASK_RCNN, **{'train_cfg.max_epochs': 24})) is None
    assert find_published_run(recipe_of(MASK_RCNN, **{'model.roi_head.bbox_head.num_classes': 3})) is None
    assert find_published_run(Config(dict())) is None


def test_the_batch_counts_processes_images_and_accumulated_iterations() -> None:
    cfg = recipe_of(SVT_S)
    assert (images_per_gpu(cfg), total_batch(cfg, 8), total_batch(cfg, None)) == (2, 16, None)
    assert total_batch(recipe_of(SVT_S, launcher='none'), None) == 2
    assert total_batch(recipe_of(SVT_S, **{'optim_wrapper.accumulative_counts': 4}), 2) == 16
    assert (images_per_gpu(Config(dict())), total_batch(Config(dict()), None)) == (1, 1)
    assert [rate_scale(cfg, 4), rate_scale(recipe_of(SVT_S, **{'auto_scale_lr.enable': True}), 4)] == [1.0, 0.5]
    assert rate_scale(recipe_of(SVT_S, **{'auto_scale_lr.enable': True}), None) is None


@pytest.mark.parametrize('name', [SVT_S, 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512'])
def test_mmengines_schedulers_give_the_published_rates(name: str) -> None:
    iterations = [0, 1, 49, 1499, 1500, 3000]
    rates = scheduled_rates(recipe_of(name), iterations, [0] * 6, None)
    assert rates == pytest.approx(RUNS[name].schedule.learning_rates(np.array(iterations), np.zeros(6)), rel=1e-9)


def test_schedulers_step_by_iteration_and_by_epoch() -> None:
    iterations, epochs = [0, 250, 500, 7_999, 8_000, 11_000], [0, 0, 0, 7, 8, 11]
    expected = RUNS[MASK_RCNN].schedule.learning_rates(np.array(iterations), np.array(epochs), 0.25)
    assert scheduled_rates(recipe_of(MASK_RCNN), iterations, epochs, 1000, 0.25) == pytest.approx(expected, rel=1e-9)


def test_a_schedule_in_epochs_may_be_converted_to_iterations() -> None:
    linear = dict(type='LinearLR', start_factor=0.5, end=2, by_epoch=True, convert_to_iter_based=True)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), param_scheduler=linear))
    rates = scheduled_rates(cfg, [0, 10, 19, 30], [0, 1, 1, 3], 10)
    assert rates == pytest.approx([0.5, 0.5 + 0.5 * 10 / 19, 1.0, 1.0])


@pytest.mark.parametrize(
    'cfg',
    [
        dict(),
        dict(optim_wrapper=dict(generator=dict(optimizer=dict(lr=1.0)))),
        dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), param_scheduler=dict(generator=[])),
        dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), param_scheduler=[dict(type='NoSuchLR')]),
        dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), param_scheduler=[dict(type='StepLR', nothing=1)]),
    ],
)
def test_rates_that_cannot_be_computed_are_not_guessed(cfg: dict) -> None:
    assert scheduled_rates(Config(cfg), [0, 1], [0, 0], None) is None


def test_a_constant_rate_and_a_momentum_schedule() -> None:
    momentum = dict(type='ConstantMomentum', factor=0.5)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=0.1)), param_scheduler=[momentum]))
    assert scheduled_rates(cfg, [0, 9], [0, 0], None) == pytest.approx([0.1, 0.1])


def test_fresh_heads_have_the_loss_of_a_coin_toss() -> None:
    assert fresh_losses(recipe_of(SVT_S)) == pytest.approx(
        {'decode.loss_ce': math.log(150), 'aux.loss_ce': 0.4 * math.log(150)}
    )
    assert fresh_losses(recipe_of(MASK_RCNN)) == pytest.approx({'loss_rpn_cls': math.log(2), 'loss_cls': math.log(81)})
    assert fresh_losses(recipe_of('retinanet_twins-svt-s_fpn_8xb2-1x_coco')) == {}
    weighted = dict(type='CrossEntropyLoss', class_weight=[1.0, 2.0])
    binary = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=3.0, loss_name='loss_bce')
    heads = [
        dict(num_classes=2, loss_decode=weighted),
        dict(num_classes=2, loss_decode=[binary, dict(type='DiceLoss')]),
    ]
    cfg = Config(dict(model=dict(decode_head=heads, rpn_head=None, roi_head=dict(bbox_head=[dict(num_classes=3)]))))
    assert fresh_losses(cfg) == pytest.approx({'decode_1.loss_bce': 3 * math.log(2)})
    assert fresh_losses(Config(dict())) == {}
