"""Tables of what was measured, for the terminal, a page and JSON."""

import json

import pytest

from mmtwins.benchmark import report
from mmtwins.benchmark.products import Product, Rate
from mmtwins.benchmark.task import Task, Timing

TASK = Task('inference', 64, 64)
RATE = Rate(Product('1 x 1 convolution', 'oneDNN', (16, 8, 4)), 1e9)
OURS, TIMM = Timing('mmtwins', TASK, (1.0, 1.1, 1.2)), Timing('timm', TASK, (2.2, 2.2, 2.2))


def test_a_ratio_within_noise_is_not_given() -> None:
    rows = report.time_rows([OURS, TIMM, Timing('mmseg', TASK, (1.0, 2.2, 5.0))], rate=1e9)
    assert [row[4] for row in rows] == ['1', '2.00', 'within noise']
    assert rows[0][:4] == ['mmtwins', '1000.0', '1100.0', '0.91']
    assert float(rows[0][5]) == pytest.approx(2 * TASK.macs / 1.0 / 1e9, abs=0.01)


def test_what_does_not_fit_is_said() -> None:
    rows = report.memory_rows({'mmtwins': 10**6, 'mmseg': None, 'timm': 4 * 10**6})
    assert rows == [['mmtwins', '1', '', '0.25'], ['mmseg', 'does not fit', '', ''], ['timm', '4', '', '1.00']]


def test_shares_of_parts_add_up() -> None:
    rows = report.parts_rows({'Conv2d': 0.003, 'LayerNorm': 0.001})
    assert rows == [['Conv2d', '3.0', '0.75'], ['LayerNorm', '1.0', '0.25']]
    rows = report.parts_rows({'a': 0.6, 'b': 0.394, 'c': 0.004, 'd': 0.002})
    assert rows == [['a', '600.0', '0.60'], ['b', '394.0', '0.39'], ['all others', '6.0', '0.01']]


def test_pages_and_json_have_everything() -> None:
    measured = ([([OURS, TIMM], RATE)], [(TASK, {'mmtwins': 10**6, 'timm': None})], [(TASK, {'Conv2d': 0.1})])
    text = report.to_markdown('python x.py', dict(device='cpu', threads=2), *measured)
    for part in (
        'python x.py',
        'device cpu, threads 2',
        'fastest product 1 GFLOP/s (1 x 1 convolution of oneDNN, 16 x 8 x 4)',
        '| timm | 2200.0',
        '| timm | does not fit',
        '| Conv2d | 100.0',
    ):
        assert part in text, part
    content = json.loads(json.dumps(report.to_json(*measured)))
    assert [timing['ratio'] for timing in content['timings']] == [1.0, pytest.approx(2.0)]
    assert content['timings'][0]['fastest_product'] == dict(
        operator='1 x 1 convolution', library='oneDNN', shape=[16, 8, 4], flops=1e9
    )
    assert content['memory'][1] == dict(task=content['memory'][0]['task'], implementation='timm', peak_bytes=None)
    assert content['profiles'][0]['seconds'] == {'Conv2d': 0.1}


def test_summary_has_a_row_for_each_task() -> None:
    large = Task('training', 128, 64)
    timings = [
        ([OURS, TIMM, Timing('mmseg', TASK, (1.0, 2.2, 5.0))], RATE),
        ([Timing('mmtwins', large, (2.0, 2.0)), Timing('timm', large, (3.0, 3.0))], RATE),  # mmseg does not fit
        ([Timing('timm', large, (3.0, 3.0))], RATE),  # nor does mmtwins
    ]
    title, _, *rows, _ = report.summary_table(timings)
    assert title == (
        '| task | mmtwins (ms) | times as long: timm | times as long: mmseg | share of the fastest product |'
    )
    assert rows[0].startswith('| inference 1 x 64 x 64 fp32 | 1100.0 | 2.00 | within noise |')
    assert rows[1].startswith('| training 1 x 128 x 64 fp32 | 2000.0 | 1.50 |  |')
    assert rows[2] == '| training 1 x 128 x 64 fp32 |  |  |  |  |'
    text = report.to_markdown('python x.py', dict(device='cpu'), timings, [], [], summary=True)
    assert '\n'.join(rows) in text and 'min (ms)' not in text
