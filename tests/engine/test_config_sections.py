"""Sections of a config: names that are nearly right, forms, numbers, and what belongs together."""

import re

import pytest
from mmengine.config import Config

from mmtwins.engine.config_sections import check_sections, check_together, require


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(train_dataloder=1), 'c.py: train_dataloder is not read by anything: do you mean train_dataloader'),
        (dict(optim_wraper={}), 'do you mean optim_wrapper'),
        (dict(models={}), 'do you mean model?'),
        (dict(model='text'), r"c.py: model is 'text': write model = dict\(...\)"),
        (dict(custom_hooks={}), r'custom_hooks is {}: write custom_hooks = \[dict\(...\)\]'),
        (
            dict(default_scope='nothing_here'),
            "default_scope is 'nothing_here', no package that is installed: write 'mmseg'",
        ),
        (dict(default_scope=5), 'default_scope is 5'),
        (dict(param_scheduler=5), 'param_scheduler is 5: write a list of dicts'),
        (
            dict(param_scheduler=[dict(type='PolyLR', eta_min='a')]),
            r"param_scheduler\[0\].eta_min is 'a': write a number",
        ),
        (dict(param_scheduler=dict(type='MultiStepLR', milestones=[1, 'b'])), r'param_scheduler\[0\].milestones is'),
        (dict(param_scheduler=[dict(type='CosineAnnealingLR', T_max=[1])]), r'param_scheduler\[0\].T_max is \[1\]'),
        (dict(train_cfg=dict(max_iters=0)), 'train_cfg.max_iters is 0: write a whole number, at least 1'),
        (dict(train_cfg=dict(max_epochs=True)), 'train_cfg.max_epochs is True'),
        (dict(train_cfg=dict(val_interval='a')), "train_cfg.val_interval is 'a'"),
        (dict(model=dict(data_preprocessor=dict(std=[1, 0, 1]))), 'images are divided by it, write positive numbers'),
        (dict(model=dict(data_preprocessor=dict(std=[1, float('nan'), 1]))), 'images are divided by it'),
    ],
)
def test_what_is_refused(content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sections(Config(content), 'c.py')


def test_variables_of_the_author_are_left_alone() -> None:
    names = (
        'data_root',
        'train_pipeline',
        'test_pipeline',
        'classes',
        'dataset',
        'max_iters',
        'head',
        'optimizer',
        'norm_cfg',
    )
    content = dict.fromkeys(names, 1)
    schedule = dict(type='A', end=5, milestones=[1, 2], begin=None, by_epoch=True)
    content |= dict(model=dict(type='A'), models=1, param_scheduler=[schedule], custom_hooks=[])
    check_sections(Config(content), 'c.py')


def test_what_belongs_together() -> None:
    check_together(Config(dict(model={})))
    check_together(Config(dict(val_dataloader={}, val_cfg={}, val_evaluator={}, train_cfg=None)))
    with pytest.raises(
        ValueError, match='it has val_dataloader and val_evaluator, but no val_cfg: they belong together'
    ):
        check_together(Config(dict(val_dataloader={}, val_evaluator={}, val_cfg=None)))
    with pytest.raises(ValueError, match='it has optim_wrapper, but no train_dataloader and train_cfg'):
        check_together(Config(dict(optim_wrapper={})))


def test_what_is_required() -> None:
    require(Config(dict(model=dict(type='A'))), 'model')
    with pytest.raises(ValueError, match='it has no train_cfg: inherit a recipe of configs/, or write train_cfg'):
        require(Config(dict(model=dict(type='A'))), 'model', 'train_cfg')


def test_an_optimizer_that_nobody_knows() -> None:
    rest = dict(train_dataloader={}, train_cfg={})
    for kind in ('AdamW', None):
        check_together(Config(dict(optim_wrapper=dict(optimizer=dict(type=kind)), **rest)))
    for kind, hint in (('AdanW', 'do you mean AdamW?'), ('Qqq', 'write AdamW, for example')):
        with pytest.raises(ValueError, match=rf"optim_wrapper\.optimizer: '{kind}' is no optimizer: {re.escape(hint)}"):
            check_together(Config(dict(optim_wrapper=dict(optimizer=dict(type=kind)), **rest)))
