"""The Runner of a config, with our hooks."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins.engine.hooks import CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook
from mmtwins.engine.runner import build_runner


@pytest.mark.parametrize('named', [[], [dict(type='CheckBatchSizeHook'), dict(type='FitCheckpointHook')]])
def test_a_runner_has_each_of_our_hooks_once(named: list, tmp_path: Path) -> None:
    model = dict(type='TwinsSVTBackbone', out_indices=(0, 1, 2, 3))
    cfg = Config(dict(model=model, custom_hooks=named, work_dir=str(tmp_path), launcher='none'))
    kinds = [type(hook) for hook in build_runner(cfg).hooks]
    for kind in (CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook):
        assert kinds.count(kind) == 1
