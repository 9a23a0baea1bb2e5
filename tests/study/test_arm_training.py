"""Trainings of arms: equal settings, kept results, and continuing where one was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmtwins.study import arm_training
from mmtwins.study.arm_training import Study, config_of, final_checkpoint, fingerprint, train
from mmtwins.weights.opening import read_file


def test_configs_of_arms_differ_in_the_backbone_alone(tmp_path: Path) -> None:
    study = Study(tmp_path / 'work', tmp_path / 'results', 100)
    ours, other = (config_of(study, arm, 1).to_dict() for arm in ('k7', 'lsa'))
    assert ours['model'].pop('backbone') != other['model'].pop('backbone')
    assert ours.pop('work_dir') != other.pop('work_dir')
    assert ours == other
    assert ours['randomness'] == dict(seed=1) and ours['train_cfg']['max_iters'] == 100


def test_fingerprints_follow_what_is_trained_not_where(tmp_path: Path) -> None:
    study = Study(tmp_path / 'a', tmp_path, 100)
    known = fingerprint(config_of(study, 'k7', 0))
    assert fingerprint(config_of(replace(study, work_dir=tmp_path / 'b'), 'k7', 0)) == known
    others = [config_of(replace(study, iterations=200), 'k7', 0), config_of(study, 'k7', 1), config_of(study, 'lsa', 0)]
    assert known not in [fingerprint(cfg) for cfg in others]


def test_a_result_is_kept_and_an_outdated_one_is_not_used(tiny_study, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study[0]
    kept = json.loads((study.results / 'train_k7_seed-0.json').read_text())
    assert kept['iterations'] == 3 and 0 <= kept['mIoU'] <= 1 and kept['processor_seconds'] > 0
    monkeypatch.setattr(arm_training, 'run', lambda cfg: pytest.fail('trained again'))
    assert train(study, 'k7', 0) == kept
    assert train(replace(study, iterations=4), 'k7', 0, only_kept=True) is None
    assert train(study, 'k7', 1, only_kept=True) is None


def test_a_stopped_training_goes_on_and_ends_with_the_same_weights(
    tiny_study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study[0]
    options = study.options | {'default_hooks.checkpoint.interval': 1}
    again = replace(study, results=tmp_path, options=options)

    def stop(self, runner, *args, **kwargs) -> None:
        if runner.iter == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(arm_training.StopwatchHook, 'after_train_iter', stop)
        with pytest.raises(KeyboardInterrupt):
            train(again, 'k7', 0)
    folder = Path(config_of(again, 'k7', 0).work_dir)
    assert [path.name for path in folder.glob('iter_*.pth')] == ['iter_1.pth']
    resumed = train(again, 'k7', 0)
    assert resumed is not None
    weights, expected = (read_file(final_checkpoint(one, 0))['state_dict'] for one in (again, study))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert resumed['mIoU'] == train(study, 'k7', 0)['mIoU']
