"""The shipped schedules: learning rates by the published formulas, batch sizes and lengths of training."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import RECIPES, Recipe, step_of

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
    schedule = recipe.published.schedule
    iterations = np.arange(schedule.iterations or schedule.epochs * EPOCH_LENGTH)
    return schedule.learning_rates(iterations, iterations // EPOCH_LENGTH)


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
    train_cfg, schedule = recipe.cfg.train_cfg, recipe.published.schedule
    if recipe.dataset == 'ade20k':
        assert (train_cfg.type, train_cfg.max_iters) == ('IterBasedTrainLoop', schedule.iterations)
        assert schedule.iterations % train_cfg.val_interval == 0
        assert recipe.cfg.default_hooks.checkpoint.interval == train_cfg.val_interval
    else:
        assert (train_cfg.type, train_cfg.val_interval) == ('EpochBasedTrainLoop', 1)
        assert train_cfg.max_epochs == schedule.epochs


@each_recipe
def test_batch_size_is_the_one_in_the_name(recipe: Recipe) -> None:
    cfg, published = recipe.cfg, recipe.published
    assert cfg.train_dataloader.batch_size == recipe.images_per_gpu == published.images
    assert recipe.gpus * recipe.images_per_gpu == published.batch
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=published.batch)


@each_recipe
def test_rate_decay_and_size_are_the_published_ones(recipe: Recipe) -> None:
    cfg, schedule = recipe.cfg, recipe.published.schedule
    optimizer, pipeline = cfg.optim_wrapper.optimizer, cfg.train_dataloader.dataset.pipeline
    assert (optimizer.lr, optimizer.weight_decay) == (schedule.rate, schedule.weight_decay)
    if recipe.dataset == 'ade20k':
        assert (cfg.crop_size, cfg.model.data_preprocessor.size) == (schedule.size * 2, schedule.size * 2)
        assert step_of(pipeline, 'RandomCrop').crop_size == schedule.size * 2
    elif schedule.title.endswith('3x'):
        whole, (small, _, large) = step_of(pipeline, 'RandomChoice').transforms
        assert [max(step.scales) for step in (*whole, large)] == [schedule.size[::-1]] * 2
        assert {max(scale) for scale in small.scales} == {schedule.size[0]}
    else:
        assert step_of(pipeline, 'Resize').scale == schedule.size
