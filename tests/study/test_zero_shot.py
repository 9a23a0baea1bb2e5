"""Trained models with other windows: which weights they begin with."""

import json

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmseg')

from mmtwins.engine.config import load_config
from mmtwins.study import zero_shot
from mmtwins.study.arm_training import CONFIG, final_checkpoint
from mmtwins.study.zero_shot import CHANGES, change_windows, config_of_change
from mmtwins.weights.resizing import fit_sr_kernels


def test_before_and_after_are_kept(tiny_study, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study[0]
    kept = json.loads((study.results / 'change_windows-4_seed-0.json').read_text())
    assert {'before', 'after', 'processor_seconds'} <= set(kept) and kept['iterations'] == 1
    monkeypatch.setattr(zero_shot, 'run', lambda cfg: pytest.fail('trained again'))
    assert change_windows(study, 'windows-4', 0) == kept
    assert change_windows(study, 'unchanged', 0, only_kept=True) is None


def test_a_fine_tuning_begins_with_the_trained_weights_at_a_tenth_of_the_rate(tiny_study) -> None:
    study = tiny_study[0]
    cfg = config_of_change(study, 'ratios-16-8-4-2', 0)
    assert cfg.load_from == str(final_checkpoint(study, 0))
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(load_config(CONFIG).optim_wrapper.optimizer.lr / 10)
    assert cfg.train_cfg.max_iters == study.finetuning


@pytest.mark.parametrize('change', CHANGES)
def test_all_weights_but_those_of_subsampling_stay(change: str) -> None:
    settings = load_config(CONFIG).model.backbone
    trained = MODELS.build(settings).state_dict()
    expected = MODELS.build(settings | CHANGES[change]).state_dict()
    fitted, changes = fit_sr_kernels(trained, expected)
    assert {name: value.shape for name, value in fitted.items()} == {k: v.shape for k, v in expected.items()}
    assert bool(changes) == change.startswith('ratios')
    kept = [name for name in trained if '.attn.sr.' not in name and '.attn.norm.' not in name]
    assert all(torch.equal(fitted[name], trained[name]) for name in kept)
