"""Charts of what was measured."""

from pathlib import Path

import pytest

from mmtwins.benchmark import charts
from mmtwins.benchmark.suite import Measurements
from mmtwins.benchmark.task import Task, Timing


def test_growth_is_drawn(tmp_path: Path) -> None:
    panels = {'seconds': {'mmtwins': {256: 0.1, 512: 0.4}, 'timm': {256: 0.2}}, 'MB': {'mmtwins': {256: 10.0}}}
    path = charts.draw_growth(panels, 'image side (pixels)', tmp_path / 'growth.png')
    assert path.read_bytes().startswith(b'\x89PNG')


def test_one_chart_for_each_thing_that_was_measured(tmp_path) -> None:
    task = Task('inference', 64, 64)
    measured = Measurements([([Timing('mmtwins', task, (1.0, 2.0))], 1e9)], [], [], [])
    charts.draw_measurements(measured, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['time.png']


@pytest.mark.parametrize(('over', 'points'), [('side', {64: 1.5, 128: 6.0}), ('batch', {1: 1.5, 2: 3.0})])
def test_growth_is_of_one_image(tmp_path, monkeypatch, over, points) -> None:
    tasks = [Task('inference', 64, 64), Task('inference', 128, 128) if over == 'side' else Task('inference', 64, 64, 2)]
    timings = [
        ([Timing('mmtwins', task, (value * task.batch,) * 2)], 1e9) for task, value in zip(tasks, points.values())
    ]
    memory = [(task, {'mmtwins': 10**6, 'timm': None}) for task in tasks]
    drawn = []
    monkeypatch.setattr(charts, 'draw_growth', lambda *args: drawn.append(args))
    charts.draw_measured_growth(Measurements(timings, memory, [], []), over, tmp_path)
    ((panels, _, path),) = drawn
    assert panels['inference: seconds per image'] == {'mmtwins': points}
    assert panels['inference: peak memory (MB)'] == {'mmtwins': dict.fromkeys(points, 1.0)}
    assert path.name == f'{over}.png'
