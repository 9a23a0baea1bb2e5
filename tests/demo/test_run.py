"""The five steps of the demo: what is done once, and what is refused. tests/tools/test_demo.py runs them."""

import fcntl
import json
from pathlib import Path

import pytest
from rich.console import Console

from mmtwins.demo import run
from mmtwins.demo.run import run_demo
from mmtwins.demo.tasks import TASKS, DemoError, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list:
    """The steps that are run, without their work."""
    calls = []

    def train(task, settings, console, state, save):
        calls.append(f'train {task.name}')
        state['seconds'][task.name] = 12.5
        save()
        path = settings.work_dir / f'{task.name}.pth'
        path.touch()
        return path

    def evaluate(task, settings, console, checkpoint):
        calls.append(f'evaluate {task.name}')
        return {label: 0.5 for label, _ in task.metrics.values()}

    def draw(settings, checkpoints):
        calls.append('draw')
        (settings.work_dir / 'a.png').touch()
        return dict(pictures=str(settings.work_dir / 'a.png'))

    monkeypatch.setattr(run, 'generate_toy_data', lambda root, seed, **options: calls.append('generate'))
    for name, function in dict(train=train, evaluate=evaluate, _draw=draw).items():
        monkeypatch.setattr(run, name, function)
    return calls


def make_settings(folder: Path, **options: object) -> Settings:
    return Settings(ROOT, folder / 'work', folder / 'data', **options)


def test_a_complete_run_is_shown_and_not_repeated(steps: list, tmp_path: Path, capsys) -> None:
    console = Console(width=100)
    run_demo(make_settings(tmp_path), console)
    names = [task.name for task in TASKS]
    assert steps == ['generate', *(f'train {n}' for n in names), *(f'evaluate {n}' for n in names), 'draw']
    first = capsys.readouterr().out
    results = json.loads((tmp_path / 'work/results.json').read_text())
    assert results['segmentation']['training_seconds'] == 12.5 and results['settings']['seed'] == 0
    run_demo(make_settings(tmp_path), console)
    assert len(steps) == 6
    second = capsys.readouterr().out
    assert 'complete already' in second and second.split('models')[-1][-200:] == first.split('models')[-1][-200:]


def test_an_interrupted_evaluation_is_not_repeated(steps: list, tmp_path: Path, monkeypatch) -> None:
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, '_draw', stop)
        run_demo(make_settings(tmp_path), Console(quiet=True))
    steps.clear()
    run_demo(make_settings(tmp_path), Console(quiet=True))
    assert not [step for step in steps if step.startswith('evaluate')] and steps[-1] == 'draw'


def test_other_settings_need_another_folder_or_fresh(steps: list, tmp_path: Path) -> None:
    run_demo(make_settings(tmp_path), Console(quiet=True))
    with pytest.raises(DemoError, match='name another --work-dir, or start over with --fresh'):
        run_demo(make_settings(tmp_path, seed=1), Console(quiet=True))
    (tmp_path / 'work/old').mkdir()
    run_demo(make_settings(tmp_path, seed=1), Console(quiet=True), fresh=True)
    assert not (tmp_path / 'work/old').exists()
    assert json.loads((tmp_path / 'work/results.json').read_text())['settings']['seed'] == 1


def test_folders_of_others_and_running_demos_are_left_alone(steps: list, tmp_path: Path) -> None:
    work = tmp_path / 'work'
    work.mkdir()
    (work / 'mine.txt').touch()
    with pytest.raises(DemoError, match='so it is not deleted'):
        run_demo(make_settings(tmp_path), Console(quiet=True), fresh=True)
    with (work / '.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DemoError, match='another demo is running'):
            run_demo(make_settings(tmp_path), Console(quiet=True))
    assert steps == [] and (work / 'mine.txt').exists()
