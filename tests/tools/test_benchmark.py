"""tools/benchmark.py: what it writes, and what it refuses. No time is judged."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmtwins.benchmark import suite


def test_the_tool_writes_tables_json_and_charts(
    call_tool: Callable[..., subprocess.CompletedProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process each, which tests/benchmark/test_measure.py starts.
    monkeypatch.setattr(suite, 'measure_memory', lambda task, name: 2**21 if task.work == 'training' else 2**20)
    monkeypatch.setattr('mmtwins.benchmark.products.SHAPES', ((64, 64, 64),))
    arguments = [
        '--size',
        '64',
        '--rounds',
        '2',
        '--threads',
        '1',
        '--memory',
        '--profile',
        '--roofline',
        '--against',
        '--out',
        'out',
    ]
    result = call_tool('benchmark.py', *arguments)
    assert result.returncode == 0, result.stderr
    assert 'inference 1 x 64 x 64 fp32' in result.stdout
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert results['command'].endswith(' '.join(arguments))
    assert results['machine']['threads'] == 1
    assert results['machine']['torch'] == torch.__version__
    assert results['machine']['device']
    assert [timing['task']['work'] for timing in results['timings']] == ['inference', 'training']
    for timing in results['timings']:
        assert timing['implementation'] == 'mmtwins'
        assert len(timing['seconds']) == 2
        assert timing['minimum'] == min(timing['seconds'])
        assert timing['share_of_fastest_product'] > 0
        assert timing['fastest_product']['flops'] > 1e6 and len(timing['fastest_product']['shape']) == 3
    assert [memory['peak_bytes'] for memory in results['memory']] == [2**20, 2**21]
    for profile, work in zip(results['profiles'], ('inference', 'training'), strict=True):
        assert profile['task']['work'] == work
        assert {'aten::mkldnn_convolution', 'aten::native_layer_norm'} < set(profile['seconds'])
    assert [roofline['task']['work'] for roofline in results['rooflines']] == ['inference']
    text = (tmp_path / 'out' / 'tables.md').read_text()
    assert results['command'] in text
    assert '| mmtwins |' in text
    for name in ('time.png', 'memory.png', 'roofline_1x64x64_fp32.png'):
        assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG')


def test_a_summary_is_one_table(call_tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.benchmark.products.SHAPES', ((64, 64, 64),))
    arguments = '--size 32 64 --work inference --rounds 2 --threads 1 --summary --against --out out'
    assert call_tool('benchmark.py', *arguments.split()).returncode == 0
    lines = (tmp_path / 'out' / 'tables.md').read_text().splitlines()
    table = [line for line in lines if line.startswith('|')]
    assert [line.split(' | ')[0] for line in table[2:]] == [f'| inference 1 x {s} x {s} fp32' for s in (32, 64)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--size 64xa', "'64xa' is no image size: give height x width in pixels"),
        ('--against keras', 'keras'),
        ('--size 16', 'too small: the smallest input is 32 x 32'),
        ('missing.py --against', 'missing.py'),
        ('--device tpu7', "error: device 'tpu7' cannot be used here"),
        ('--rounds 1', 'a spread needs at least 2'),
        ('--summary --no-time', '--summary is of times: leave --no-time out'),
        ('--load -1', '--load -1: give 0 or more'),
        ('--precision fp32 tf32', '--precision tf32: cpu has no TF32; take fp32, or a GPU with --device cuda'),
    ],
)
def test_wrong_arguments_end_in_one_line(call_tool, arguments: str, message: str) -> None:
    result = call_tool('benchmark.py', *arguments.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_a_missing_peer_is_named_with_the_remedy(call_tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    result = call_tool('benchmark.py', '--against', 'timm')
    assert result.returncode == 1
    assert result.stderr.startswith('error: timm cannot be imported here (')
    assert result.stderr.endswith('): pip install timm, or leave it out of --against\n')
