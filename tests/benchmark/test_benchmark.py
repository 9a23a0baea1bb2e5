"""The benchmark: what it writes, what it refuses to say, equal weights and work for all. No time is judged."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mmtwins import TwinsSVTBackbone
from mmtwins.benchmark import measure as benchmark
from mmtwins.benchmark import report
from mmtwins.benchmark.measure import Task, Timing, time_in_turn
from mmtwins.benchmark.peers import OURS, PEERS, build_backbone, installed_peers
from mmtwins.markdown import update_section
from mmtwins.models.backbone import TwinsBlock

TASK = Task('inference', 64, 64)


def test_a_ratio_is_refused_where_the_spread_is_larger_than_the_difference() -> None:
    ours = Timing('mmtwins', TASK, (1.0, 1.1, 1.2))
    assert ours.median == pytest.approx(1.1)
    assert ours.spread == pytest.approx(0.1)
    assert Timing('timm', TASK, (2.2, 2.2, 2.2)).speedup_of(ours) == pytest.approx(2.0)
    assert Timing('timm', TASK, (0.5, 0.5, 0.5)).speedup_of(ours) == pytest.approx(0.4545, abs=1e-3)
    assert Timing('timm', TASK, (1.15, 1.15, 1.15)).speedup_of(ours) is None  # ours spreads more than that
    assert Timing('timm', TASK, (1.0, 2.2, 5.0)).speedup_of(ours) is None  # and here the other
    cells = report.time_rows([ours, Timing('timm', TASK, (1.0, 2.2, 5.0))], rate=1e9)
    assert [row[4] for row in cells] == ['1', 'within noise']


def test_everything_runs_in_turn_after_warming_up() -> None:
    calls = []
    seconds = time_in_turn({name: lambda name=name: calls.append(name) for name in 'abc'}, rounds=3)
    assert ''.join(calls) == 'abc' * 5
    assert {name: len(values) for name, values in seconds.items()} == dict(a=3, b=3, c=3)


def test_parts_add_up_and_are_of_inference_only(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(ticks))  # one second from each reading to the next
    parts = benchmark.measure_parts(TASK, rounds=2)
    num_blocks = sum(isinstance(module, TwinsBlock) for module in TwinsSVTBackbone().modules())
    assert (
        parts['TwinsBlock'] == 7 * num_blocks
    )  # before, between and after norm1, attn, DropPath, norm2, mlp, DropPath
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    with pytest.raises(ValueError, match='a profile is of inference'):
        benchmark.measure_parts(Task('training', 64, 64))


def test_macs_are_those_of_the_work() -> None:
    assert Task('inference', 512, 512).macs / 1e9 == pytest.approx(16.6, abs=0.2)
    assert Task('training', 800, 1344, batch=2).macs / 1e9 == pytest.approx(2 * 3 * 88.5, abs=6)
    assert Task('inference', 64, 64, config='config.py').macs is None


def test_the_tool_writes_tables_json_and_charts(
    run_tool: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    arguments = [
        '--size',
        '64',
        '--rounds',
        '2',
        '--threads',
        '1',
        '--memory',
        '--profile',
        '--against',
        '--out',
        'out',
    ]
    result = run_tool('benchmark.py', *arguments)
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
        assert timing['share_of_gemm'] > 0
    assert [memory['peak_bytes'] > 2**20 for memory in results['memory']] == [True, True]
    (profile,) = results['profiles']  # of inference alone
    assert profile['task']['work'] == 'inference'
    assert {'TokenLinear', 'LayerNorm', 'GlobalSubsampledAttention', 'Conv2d'} < set(profile['seconds'])
    text = (tmp_path / 'out' / 'tables.md').read_text()
    assert results['command'] in text
    assert '| mmtwins |' in text
    for name in ('time.png', 'memory.png'):
        assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('--size 64xa', "invalid size value: '64xa'"),
        ('--against keras', 'keras'),
        ('--size 16', 'too small: the smallest input is 32 x 32'),
        ('missing.py --against', 'missing.py'),
    ],
)
def test_wrong_arguments_end_in_one_line(run_tool, arguments: str, message: str) -> None:
    result = run_tool('benchmark.py', *arguments.split())
    assert result.returncode != 0
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def test_growth_is_drawn(tmp_path: Path) -> None:
    panels = {'seconds': {'mmtwins': {256: 0.1, 512: 0.4}, 'timm': {256: 0.2}}, 'MB': {'mmtwins': {256: 10.0}}}
    path = report.draw_growth(panels, 'image side (pixels)', tmp_path / 'growth.png')
    assert path.read_bytes().startswith(b'\x89PNG')


def test_tables_are_written_between_the_markers_of_a_section(tmp_path: Path) -> None:
    path = tmp_path / 'page.md'
    path.write_text(
        'a\n<!-- time: begin -->\nold\n<!-- time: end -->\nb\n<!-- memory: begin -->\n<!-- memory: end -->\n'
    )
    update_section(path, 'time', 'new')
    update_section(path, 'memory', 'more')
    assert path.read_text() == (
        'a\n<!-- time: begin -->\nnew\n<!-- time: end -->\nb\n<!-- memory: begin -->\nmore\n<!-- memory: end -->\n'
    )
    with pytest.raises(ValueError, match='has no section between <!-- other: begin -->'):
        update_section(path, 'other', '')


def test_what_does_not_fit_is_said() -> None:
    rows = report.memory_rows({'mmtwins': 10**6, 'mmseg': None, 'timm': 4 * 10**6})
    assert rows == [['mmtwins', '1', '', '0.25'], ['mmseg', 'does not fit', '', ''], ['timm', '4', '', '1.00']]


@pytest.mark.parametrize('peer', PEERS)
def test_peers_hold_the_same_weights(peer: str) -> None:
    if peer not in installed_peers():
        pytest.skip(f'{peer} is not installed')
    torch.manual_seed(0)
    weights = TwinsSVTBackbone().state_dict()
    x = torch.randn(1, 3, 224, 224)  # 7 divides all maps, so that no window is padded
    with torch.no_grad():
        expected = build_backbone('mmtwins', weights=weights).eval()(x)
        maps = build_backbone(peer, weights=weights).eval()(x)
        if peer == 'timm':  # has no norms of stages
            ours = TwinsSVTBackbone(norm_after_stage=False).eval()
            ours.load_state_dict({name: w for name, w in weights.items() if not name.startswith('norm_list.')})
            expected = ours(x)
    for actual, wanted in zip(maps, expected, strict=True):
        assert_close(actual, wanted, rtol=1e-3, atol=1e-3)  # mmseg and mmpretrain have another eps of norms


@pytest.mark.parametrize('implementation', OURS[:2])
def test_variants_of_ours_are_built(implementation: str) -> None:
    assert build_backbone(implementation).with_cp == (implementation == 'mmtwins with_cp')


@pytest.mark.parametrize('config', ['toy/upernet_*', 'toy/mask-rcnn_*'])
@pytest.mark.parametrize('work', benchmark.WORKS)
def test_whole_configs_run(config: str, work: str) -> None:
    pytest.importorskip('mmseg' if 'upernet' in config else 'mmdet')
    path = next((Path(__file__).parents[2] / 'configs').glob(config))
    task = Task(work, 64, 96, batch=2, config=str(path))
    benchmark.make_step(task, 'mmtwins')()
    with pytest.raises(ValueError, match='has an architecture of its own, which mmseg has not'):
        benchmark.make_step(task, 'mmseg')
    assert re.fullmatch(rf'{work} 2 x 64 x 96 fp32', str(task))
