"""TensorBoard and Weights & Biases: what a training reports, and that a resumed one goes on with its curve."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from resumed_runs import Killed, KillHook, make_config

from mmtwins.engine import tracking
from mmtwins.engine.building import ConfigError
from mmtwins.engine.runner import build_runner
from mmtwins.engine.tracking import ResumedWandb, track
from mmtwins.installing import how_to_install

has_tensorboard = pytest.mark.skipif(importlib.util.find_spec('tensorboard') is None, reason='needs tensorboard')


def read_events(folder: Path) -> Any:
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    events = accumulator.EventAccumulator(str(folder))
    return events.Reload()


def start(work_dir: Path, names: list[str], by_epoch: bool, kill: int | None = None, **options: Any) -> None:
    cfg = make_config(work_dir, by_epoch, **options)
    work_dir.mkdir(exist_ok=True)
    runner = build_runner(cfg)
    if kill:
        runner.register_hook(KillHook(kill))
    track(runner, names)
    runner.train()


@has_tensorboard
@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_resumed_training_has_one_curve_in_tensorboard(by_epoch: bool, tmp_path: Path) -> None:
    """It is killed after iteration 11, where it has logged more than its last checkpoint, of iteration 8, holds."""
    interval = {'default_hooks.checkpoint.interval': 8}
    with pytest.raises(Killed):
        start(tmp_path / 'work', ['tensorboard'], by_epoch, kill=11, **interval)
    assert [event.step for event in read_events(tmp_path / 'work/tensorboard').Scalars('loss')] == list(range(1, 12))
    checkpoint = str(tmp_path / 'work/iter_8.pth')
    start(tmp_path / 'work', ['tensorboard'], by_epoch, **interval, resume=True, load_from=checkpoint)
    events = read_events(tmp_path / 'work/tensorboard')
    assert [event.step for event in events.Scalars('loss')] == list(range(1, 13))
    # Iterations, in a training by epochs too, where that of iteration 8 is done again.
    assert sorted({event.step for event in events.Scalars('score')}) == [4, 8, 12]
    (text, again) = events.Tensors('config/text_summary')
    assert b'NoisyModel' in text.tensor_proto.string_val[0] and again.step == 9
    start(
        tmp_path / 'work',
        ['tensorboard'],
        by_epoch,
        **{'train_cfg.max_epochs' if by_epoch else 'train_cfg.max_iters': 1},
    )
    assert len(read_events(tmp_path / 'work/tensorboard').Scalars('loss')) == (
        4 if by_epoch else 1
    )  # from the beginning


@has_tensorboard
def test_pictures_go_to_tensorboard(tmp_path: Path) -> None:
    board = tracking.ResumedTensorboard(str(tmp_path), 0)
    board.add_image('predictions', np.zeros((20, 30, 3), np.uint8), step=7)
    board.close()
    (image,) = read_events(tmp_path / 'tensorboard').Images('predictions')
    assert (image.step, image.width, image.height) == (7, 30, 20)


@has_tensorboard
def test_a_tracker_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(tracking, 'print_log', lambda text, *_: said.append(text))
    board = tracking.ResumedTensorboard(str(tmp_path), 0)
    writer = board.experiment
    monkeypatch.setattr(writer, 'add_scalar', lambda *_: (_ for _ in ()).throw(OSError('No space left on device')))
    for step in (1, 2):
        board.add_scalars(dict(loss=1.0), step)
    board.add_image('predictions', np.zeros((4, 4, 3), np.uint8))
    board.close()
    assert said == ['TensorBoard gets nothing more of this training (No space left on device); the training goes on']


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for the package, which needs an account or a service of its own process."""
    module: Any = ModuleType('wandb')
    module.__spec__ = importlib.util.spec_from_loader('wandb', None)
    module.runs, module.rows, module.metrics, module.settings = [], [], [], {}
    module.run = SimpleNamespace(url='https://example.org/run')
    module.config = SimpleNamespace(update=lambda values, **_: module.settings.update(values))
    module.init = lambda **options: module.runs.append(options)
    module.define_metric = lambda **options: module.metrics.append(options)
    module.log = module.rows.append
    module.Image = lambda image: ('image', image.shape)
    module.finish = lambda: module.rows.append('finished')
    monkeypatch.setitem(sys.modules, 'wandb', module)
    return module


def test_weights_and_biases_gets_one_run_that_a_resume_continues(wandb: Any, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        start(tmp_path / 'work', ['wandb', 'wandb'], False, kill=5)
    start(tmp_path / 'work', ['wandb'], False, resume=True, load_from=str(tmp_path / 'work/iter_4.pth'))
    first, second = wandb.runs
    assert first == second and first['name'] == 'work' and first['resume'] == 'allow' and len(first['id']) == 8
    assert wandb.metrics[0] == dict(name='*', step_metric='iteration')
    assert wandb.settings['model'] == dict(type='NoisyModel')
    steps = [row['iteration'] for row in wandb.rows if 'loss' in row]
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12]
    assert [row['iteration'] for row in wandb.rows if 'score' in row] == [4, 8, 12] and wandb.rows[-1] == 'finished'
    start(tmp_path / 'work', ['wandb'], False)  # all over again is another run
    assert wandb.runs[2]['id'] != first['id']
    board = ResumedWandb(str(tmp_path / 'work'), 3)
    board.add_image('predictions', np.zeros((4, 5, 3), np.uint8), step=3)
    assert wandb.rows[-1] == dict(predictions=('image', (4, 5, 3)), iteration=3)


def test_what_cannot_start_is_named(wandb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError('no API key: run wandb login')

    wandb.init = fail
    with pytest.raises(ConfigError, match='--track wandb: no API key: run wandb login'):
        start(tmp_path / 'work', ['wandb'], False)
    monkeypatch.setattr(tracking.importlib.util, 'find_spec', lambda name: None)
    runner = build_runner(make_config(tmp_path / 'other'))
    hint = re.escape(how_to_install('tracking'))
    with pytest.raises(ImportError, match=f'--track tensorboard needs the package tensorboard: {hint}'):
        track(runner, ['tensorboard'])
    with pytest.raises(ValueError, match='--track board: give tensorboard or wandb'):
        track(runner, ['board'])
