"""Training in the demo continues from the newest whole checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmtwins.demo import training
from mmtwins.demo.tasks import TASKS, DemoError, Settings
from mmtwins.demo.training import evaluate, train

ROOT = Path(__file__).resolve().parents[2]


def state_at(iteration):
    """The least that a training can be resumed from."""
    return dict(meta=dict(iter=iteration, epoch=0), state_dict={}, message_hub={})


@pytest.fixture
def scripts(monkeypatch, tmp_path):
    """The scripts that are run, which leave what a training and an evaluation leave."""
    calls = []

    def run_script(script, arguments, log, report=lambda: None):
        calls.append((script.name, arguments))
        work_dir = Path(arguments[arguments.index('--work-dir') + 1])
        if script.name == 'train.py':
            records = [dict(loss=2.0, lr=0.1, step=8, iter=8), dict(mIoU=50.0, step=8)]
            path = work_dir / 'now/vis_data/scalars.json'
            path.parent.mkdir(parents=True)
            path.write_text('\n'.join(map(json.dumps, records)))
            report()
            torch.save(state_at(8), work_dir / 'iter_8.pth')
        else:
            (work_dir / 'now').mkdir(parents=True)
            (work_dir / 'now/now.json').write_text(json.dumps(dict(mIoU=50.0, mAcc=61.0, aAcc=70.0)))

    monkeypatch.setattr(training, 'run_script', run_script)
    return calls


def test_a_complete_training_is_not_run_again(scripts, tmp_path, capsys):
    settings = Settings(ROOT, tmp_path, tmp_path / 'data', seed=3, tiny=True)
    state, saves, console = dict(seconds={}), [], Console(width=100)
    for _ in range(2):
        final = train(TASKS[0], settings, console, state, lambda: saves.append(dict(state['seconds'])))
        assert final == tmp_path / 'segmentation/iter_8.pth'
    ((name, arguments),) = scripts
    assert name == 'train.py' and '--resume' in arguments
    assert f'data_root={tmp_path / "data/ade"}' in arguments and 'randomness.seed=3' in arguments
    assert saves[-1]['segmentation'] > 0
    assert '8/8 iterations' in (out := capsys.readouterr().out) and 'already trained' in out
    assert evaluate(TASKS[0], settings, console, final) == dict(mIoU=0.5, mAcc=0.61, aAcc=0.7)


def test_a_damaged_final_checkpoint_is_trained_again(scripts, tmp_path, capsys):
    work_dir = tmp_path / 'segmentation'
    work_dir.mkdir()
    torch.save(state_at(4), work_dir / 'iter_4.pth')
    (work_dir / 'iter_8.pth').write_bytes((work_dir / 'iter_4.pth').read_bytes()[:400])
    settings = Settings(ROOT, tmp_path, tmp_path / 'data', tiny=True)
    train(TASKS[0], settings, Console(width=100), dict(seconds={}), lambda: None)
    assert [name for name, _ in scripts] == ['train.py']
    assert 'continuing from iteration 4' in capsys.readouterr().out


def test_a_training_without_a_checkpoint_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(training, 'run_script', lambda *args: None)
    settings = Settings(ROOT, tmp_path, tmp_path / 'data', tiny=True)
    with pytest.raises(DemoError, match=r'the training ended without .*iter_8\.pth'):
        train(TASKS[0], settings, Console(), dict(seconds={}), lambda: None)
