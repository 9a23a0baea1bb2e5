"""The roofline: arithmetic and bytes by hand, limits, and what is measured of a small image."""

import pytest
import torch
from torch import nn

from mmtwins.analysis.cost import backbone_macs
from mmtwins.benchmark.charts import draw_roofline
from mmtwins.benchmark.products import Product, Rate
from mmtwins.benchmark.report import roofline_section, to_json
from mmtwins.benchmark.roofline import Point, Roofline, bytes_moved, list_parts, measure_roofline
from mmtwins.benchmark.task import Task

TASK = Task('inference', 64, 96)
RATE = Rate(Product('matrix product', 'MKL', (8, 8, 8)), 100e9)


def test_bytes_are_those_of_input_output_and_parameters() -> None:
    linear = nn.Linear(8, 16)
    x = torch.zeros(2, 3, 5, 8)
    assert bytes_moved(linear, x, linear(x)) == 4 * (2 * 3 * 5 * 8 + 2 * 3 * 5 * 16 + 8 * 16 + 16)
    half = linear(x).to(torch.bfloat16)
    assert bytes_moved(linear, x, half) == 4 * (2 * 3 * 5 * 8 + 8 * 16 + 16) + 2 * 2 * 3 * 5 * 16


def test_parts_have_all_macs_of_the_backbone_and_the_sizes_of_its_maps() -> None:
    parts = list_parts(Task('inference', 64, 96, batch=2))
    whole = sum(sum(stage.values()) for stage in backbone_macs('small', 64, 96))
    assert sum(part.number * part.macs for part in parts) == 2 * whole
    assert {kind: sum(part.number for part in parts if part.kind == kind) for kind in {p.kind for p in parts}} == {
        'patch embedding': 4, 'LSA block': 9, 'GSA block': 9, 'position encoding': 4, 'norm': 4,
    }  # fmt: skip
    first = next(part for part in parts if part.kind == 'position encoding')
    assert first.run().shape == (2, 16, 24, 64)
    assert first.bytes == 4 * (2 * 2 * 16 * 24 * 64 + 64 * 9 + 64)


def test_a_limit_is_arithmetic_or_memory() -> None:
    point = Point('LSA block', 5 * 10**9, 10**9, 0.5)
    assert point.intensity == 10
    assert point.limit(flops=100e9, bandwidth=100e9) == pytest.approx(0.1)
    assert point.limit(flops=100e9, bandwidth=2e9) == pytest.approx(0.5)


def test_tables_json_and_chart_show_them(tmp_path) -> None:
    points = [Point('LSA block', 5 * 10**9, 10**9, 0.2), Point('norm', 0, 10**9, 0.2)]
    roofline = Roofline(TASK, RATE, 10e9, points)
    section = roofline_section(roofline)
    assert section.rows == [
        ['LSA block', '5.00', '1000', '10', 'arithmetic', '100.0', '200.0', '0.50'],
        ['norm', '0.00', '1000', '0', 'memory', '100.0', '200.0', '0.50'],
    ]
    assert 'copy 10.0 GB/s' in section.caption
    content = to_json([], [], [], [roofline])['rooflines'][0]
    assert content['bytes_per_second'] == 10e9 and content['modules'][0]['seconds'] == 0.2
    assert draw_roofline(roofline, tmp_path / 'roofline.png').read_bytes().startswith(b'\x89PNG')


def test_kinds_are_measured_in_the_order_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.benchmark.roofline.COPIED_BYTES', 2**20)
    roofline = measure_roofline(TASK, rounds=2)
    kinds = ['patch embedding', 'LSA block', 'position encoding', 'GSA block', 'norm']
    assert [point.kind for point in roofline.points] == kinds
    assert all(point.seconds > 0 and point.bytes > 0 for point in roofline.points)
    assert roofline.bandwidth > 1e7 and roofline.rate.flops > 1e8


@pytest.mark.parametrize('task', [Task('training', 64, 64), Task('inference', 64, 64, config='x.py')])
def test_trainings_and_whole_models_are_refused(task: Task) -> None:
    with pytest.raises(ValueError, match='a roofline is drawn of the inference of a backbone'):
        list_parts(task)
