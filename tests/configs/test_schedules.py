"""The shipped schedules: learning rates by the published formulas, batch sizes and lengths of training."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import RECIPES, Recipe

each_recipe = pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe.name)
EPOCH_LENGTH = 600  # of COCO's 7,330 iterations; the warm-up of 500 ends in the first epoch either way


@cache
def learning_rates(schedulers: str, rate: float, iterations: int) -> np.ndarray:
    """The rate at each iteration, by MMEngine's own schedulers (as JSON) stepped as its hook steps them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    built = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optimizer)) for s in json.loads(schedulers)]
    optimizer.step()  # or they warn of a wrong order
    rates = np.empty(iterations)
    for iteration in range(iterations):
        rates[iteration] = optimizer.param_groups[0]['lr']
        for scheduler in built:
            if not scheduler.by_epoch or (iteration + 1) % EPOCH_LENGTH == 0:
                scheduler.step()
    return rates


def published_rates(recipe: Recipe) -> np.ndarray:
    if recipe.schedule == '160k':
        t = np.arange(160000)
        rates = 6e-5 * (1 - t / 160000)
        return np.where(t < 1500, rates * (1 - (1 - t / 1500) * (1 - 1e-6)), rates)
    if recipe.schedule == '80k':
        t = np.arange(80000)
        return 1e-6 + (1e-4 - 1e-6) * (1 - t / 80000) ** 0.9
    epochs, first, second = {'1x': (12, 8, 11), '3x': (36, 27, 33)}[recipe.schedule]
    t = np.arange(epochs * EPOCH_LENGTH)
    rate = 2e-4 if (recipe.head, recipe.schedule) == ('mask-rcnn', '1x') else 1e-4
    rates = np.select([t < first * EPOCH_LENGTH, t < second * EPOCH_LENGTH], [rate, rate * 0.1], rate * 0.01)
    return np.where(t < 500, rates * (1 - (1 - t / 500) * (1 - 0.001)), rates)


@each_recipe
def test_learning_rate_is_the_published_one_at_every_iteration(recipe: Recipe) -> None:
    # mmseg's UPerNet port ends both parts one iteration early and starts the decay after the warm-up; its Semantic
    # FPN port has eta_min 1e-4, AdamW's base rate, and so never decays.
    cfg = recipe.cfg
    expected = published_rates(recipe)
    rates = learning_rates(
        json.dumps(cfg.param_scheduler), cfg.optim_wrapper.optimizer.lr, len(expected)
    )  # one run for all recipes with this schedule
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=0)


@each_recipe
def test_training_is_as_long_as_published_and_validated_on_the_way(recipe: Recipe) -> None:
    train_cfg = recipe.cfg.train_cfg
    if recipe.dataset == 'ade20k':
        iterations = {'160k': 160000, '80k': 80000}[recipe.schedule]
        assert (train_cfg.type, train_cfg.max_iters) == ('IterBasedTrainLoop', iterations)
        assert iterations % train_cfg.val_interval == 0
        assert recipe.cfg.default_hooks.checkpoint.interval == train_cfg.val_interval
    else:
        assert (train_cfg.type, train_cfg.val_interval) == ('EpochBasedTrainLoop', 1)
        assert train_cfg.max_epochs == {'1x': 12, '3x': 36}[recipe.schedule]


@each_recipe
def test_batch_size_is_the_one_in_the_name(recipe: Recipe) -> None:
    cfg = recipe.cfg
    assert cfg.train_dataloader.batch_size == recipe.images_per_gpu
    total = {'upernet': 16, 'fpn': 16, 'mask-rcnn': 16, 'retinanet': 16}[recipe.head]
    if (recipe.head, recipe.backbone) == ('upernet', 'pcpvt-s'):
        total = 32
    assert recipe.gpus * recipe.images_per_gpu == total
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=total)
