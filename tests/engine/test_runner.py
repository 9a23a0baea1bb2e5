"""The Runner of a config, with our hooks."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmtwins.engine.checkpoint_hook import SafeCheckpointHook
from mmtwins.engine.runner import OURS, build_runner, save_safely


@pytest.mark.parametrize('named', [[], [dict(type=kind.__name__) for kind in OURS]])
def test_a_runner_has_each_of_our_hooks_once(named: list, tmp_path: Path) -> None:
    model = dict(type='TwinsSVTBackbone', out_indices=(0, 1, 2, 3))
    cfg = Config(dict(model=model, custom_hooks=named, work_dir=str(tmp_path), launcher='none'))
    kinds = [type(hook) for hook in build_runner(cfg).hooks]
    assert [kinds.count(kind) for kind in (*OURS, SafeCheckpointHook, CheckpointHook)] == [1] * (len(OURS) + 1) + [0]


@pytest.mark.parametrize('kind', ['CheckpointHook', 'mmengine.CheckpointHook', CheckpointHook])
def test_mmengines_checkpoint_hook_is_replaced_with_its_options(kind: str | type) -> None:
    options = dict(interval=7, by_epoch=False, save_best='mIoU', max_keep_ckpts=2)
    cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=kind, **options), logger=dict(type='LoggerHook'))))
    save_safely(cfg)
    assert cfg.default_hooks.to_dict() == dict(
        checkpoint=dict(type='SafeCheckpointHook', **options), logger=dict(type='LoggerHook')
    )
    cfg = Config(dict(default_hooks=dict(checkpoint=None), custom_hooks=[dict(type=kind, **options)]))
    save_safely(cfg)
    assert cfg.default_hooks.checkpoint is None
    assert cfg.custom_hooks == [dict(type='SafeCheckpointHook', **options)]


def test_other_checkpoint_hooks_stay() -> None:
    for kind in ('OwnCheckpointHook', SafeCheckpointHook):
        cfg = Config(dict(default_hooks=dict(checkpoint=dict(type=kind))))
        save_safely(cfg)
        assert cfg.default_hooks.checkpoint.type == kind


def test_a_flexible_runner_with_a_checkpoint_looks_for_no_imagenet_weights(tmp_path: Path) -> None:
    init_cfg = dict(type='Pretrained', checkpoint='imagenet:svt-small')
    content = dict(model=dict(type='TwinsSVTBackbone', init_cfg=init_cfg), work_dir=str(tmp_path), launcher='none')
    for load_from, expected in (('a.pth', None), (None, init_cfg)):
        cfg = Config(dict(**content, runner_type='FlexibleRunner', load_from=load_from, env_cfg=dict()))
        assert build_runner(cfg).model.get('init_cfg') == expected
