"""The roofline: arithmetic and bytes by hand, limits, and what is measured of a small image."""

import pytest
import torch
from torch import nn

from mmtwins.analysis.cost import backbone_macs
from mmtwins.benchmark import roofline
from mmtwins.benchmark.charts import draw_roofline
from mmtwins.benchmark.products import Product, Rate
from mmtwins.benchmark.report import roofline_section, to_json
from mmtwins.benchmark.roofline import Point, Roofline, bytes_moved, list_parts, measure_roofline
from mmtwins.benchmark.task import Task
from mmtwins.models import fast_path

TASK = Task('inference', 64, 96)
RATE = Rate(Product('matrix product', 'MKL', (8, 8, 8)), 100e9)


def test_bytes_are_those_of_input_output_and_parameters() -> None:
    linear = nn.Linear(8, 16)
    x = torch.zeros(2, 3, 5, 8)
    assert bytes_moved(linear, x, linear(x)) == 4 * (2 * 3 * 5 * 8 + 2 * 3 * 5 * 16 + 8 * 16 + 16)
    half = linear(x).to(torch.bfloat16)
    assert bytes_moved(linear, x, half) == 4 * (2 * 3 * 5 * 8 + 8 * 16 + 16) + 2 * 2 * 3 * 5 * 16


def test_parts_have_all_macs_of_the_backbone_and_the_sizes_of_its_maps() -> None:
    *parts, whole = list_parts(Task('inference', 64, 96, batch=2))
    macs = sum(sum(stage.values()) for stage in backbone_macs('small', 64, 96))
    assert sum(part.number * part.macs for part in parts) == whole.macs == 2 * macs
    assert sum(part.number * part.bytes for part in parts) == whole.bytes
    assert {kind: sum(part.number for part in parts if part.kind == kind) for kind in {p.kind for p in parts}} == {
        'patch embedding': 4, 'LSA': 9, 'GSA': 9, 'MLP': 18, 'position encoding': 4, 'norm': 40,
    }  # fmt: skip
    first = {part.kind: part for part in reversed(parts)}
    maps = 2 * 2 * 16 * 24 * 64  # values of input and output
    weights = {
        'LSA': 64 * 3 * 64 + 3 * 64 + 64 * 64 + 64,
        'GSA': 64 * 64 + 64 + 64 * 128 + 128 + 64 * 64 * 8 * 8 + 64 + 2 * 64 + 64 * 64 + 64,
        'MLP': 64 * 256 + 256 + 256 * 64 + 64,
        'position encoding': 64 * 9 + 64,
        'norm': 2 * 64,
    }
    assert {kind: first[kind].bytes for kind in weights} == {kind: 4 * (maps + n) for kind, n in weights.items()}
    assert {first[kind].run().shape for kind in weights} == {(2, 16, 24, 64)}
    assert first['MLP'].macs == 2 * 2 * 16 * 24 * 64 * 256


def test_attention_and_mlp_run_by_the_fast_path_where_their_block_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def watched(function):
        return lambda module, x: calls.append(type(module).__name__) or function(module, x)

    functions = {kind: watched(function) for kind, function in roofline.FAST_FUNCTIONS.items()}
    monkeypatch.setattr(roofline, 'FAST_FUNCTIONS', functions)
    outs = [part.run() for part in list_parts(TASK)[:4]]
    assert sorted(set(calls)) == ['GlobalSubsampledAttention', 'LocallyGroupedSelfAttention', 'Mlp']
    calls.clear()
    with fast_path.fast_path(False):
        plain = [part.run() for part in list_parts(TASK)[:4]]
    assert calls == []
    for out, expected in zip(outs, plain, strict=True):
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_a_limit_is_arithmetic_or_memory() -> None:
    point = Point('LSA', 5 * 10**9, 10**9, 0.5)
    assert point.intensity == 10
    assert point.limit(flops=100e9, bandwidth=100e9) == pytest.approx(0.1)
    assert point.limit(flops=100e9, bandwidth=2e9) == pytest.approx(0.5)


def test_tables_json_and_chart_show_them(tmp_path) -> None:
    points = [Point('LSA', 5 * 10**9, 10**9, 0.2), Point('norm', 0, 10**9, 0.2)]
    whole = Point('whole backbone', 5 * 10**9, 2 * 10**9, 0.8)
    measured = Roofline(TASK, RATE, 10e9, points, whole)
    section = roofline_section(measured)
    assert section.rows == [
        ['LSA', '5.00', '1000', '10', 'arithmetic', '100.0', '200.0', '0.50'],
        ['norm', '0.00', '1000', '0', 'memory', '100.0', '200.0', '0.50'],
        ['whole backbone', '5.00', '2000', '5', 'memory', '200.0', '800.0', '0.25'],
    ]
    assert 'copy 10.0 GB/s' in section.caption
    content = to_json([], [], [], [measured])['rooflines'][0]
    assert content['bytes_per_second'] == 10e9 and content['modules'][0]['seconds'] == 0.2
    assert content['whole'] == dict(kind='whole backbone', macs=5 * 10**9, bytes=2 * 10**9, seconds=0.8)
    assert draw_roofline(measured, tmp_path / 'roofline.png').read_bytes().startswith(b'\x89PNG')


def test_kinds_are_measured_in_the_order_of_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.benchmark.roofline.COPIED_BYTES', 2**20)
    monkeypatch.setattr('mmtwins.benchmark.products.SHAPES', ((64, 64, 64),))
    measured = measure_roofline(TASK, rounds=2)
    kinds = ['patch embedding', 'LSA', 'GSA', 'MLP', 'position encoding', 'norm']
    assert [point.kind for point in measured.points] == kinds
    assert all(point.seconds > 0 and point.bytes > 0 for point in (*measured.points, measured.whole))
    assert measured.bandwidth > 1e7 and measured.rate.flops > 1e6


@pytest.mark.parametrize('task', [Task('training', 64, 64), Task('inference', 64, 64, config='x.py')])
def test_trainings_and_whole_models_are_refused(task: Task) -> None:
    with pytest.raises(ValueError, match='a roofline is drawn of the inference of a backbone'):
        list_parts(task)
