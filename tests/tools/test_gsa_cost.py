"""tools/gsa_cost.py: what it shows, draws, updates and refuses."""

import json
import re
from pathlib import Path

import pytest

from mmtwins.analysis.cost import pareto_front


def test_gsa_cost_shows_the_papers_numbers_and_draws(call_tool, tmp_path: Path) -> None:
    done = call_tool('gsa_cost.py', '--size', '224x224', '--out', 'pictures')
    assert done.returncode == 0, done.stderr
    for text in ('14.97', '7.48', '8 x 8, 4 x 4, 2 x 2, 1 x 1 keys', '8 4 2 1, keeps at least 7 x 7'):
        assert text in ' '.join(done.stdout.split()), text
    assert (tmp_path / 'pictures' / 'cost.png').read_bytes().startswith(b'\x89PNG')


def test_gsa_cost_measures_over_k(call_tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.analysis.timing.time_forward', lambda *arguments: 0.00125)
    done = call_tool('gsa_cost.py', '--size', 32, '--measure', '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'A local and a global block, forward pass in ms, cpu' in ' '.join(done.stdout.split())
    assert re.search(r'│ +1 │ +1\.25 │', done.stdout)


def test_gsa_cost_compares_and_updates_a_document(call_tool, tmp_path: Path) -> None:
    path = tmp_path / 'a.md'
    path.write_text('before\n<!-- comparison: begin -->\nold\n<!-- comparison: end -->\nafter\n')
    done = call_tool('gsa_cost.py', '--compare', 224, 512, '--out', tmp_path, '--update', path)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert text.startswith('before\n<!-- comparison: begin -->\n| image')
    assert '| 512 x 512 | calibrated | 13 8 7 7 | 14 9 4 2 | 31.2 | 15.44 | 0.93 |\n' in text
    assert text.endswith('|\n<!-- comparison: end -->\nafter\n')
    assert 'old' not in text
    for name in ('comparison.png', 'idea.png'):
        assert (tmp_path / name).read_bytes().startswith(b'\x89PNG')
    path.write_text('no markers')
    done = call_tool('gsa_cost.py', '--compare', 224, '--out', tmp_path, '--update', path)
    assert 'error: ' in done.stderr
    assert 'has no section between <!-- comparison: begin -->' in done.stderr


def test_gsa_cost_lists_and_draws_the_front(call_tool, tmp_path: Path) -> None:
    done = call_tool('gsa_cost.py', '--front', '--size', 512, '--out', tmp_path / 'new')
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'new' / 'front.png').read_bytes().startswith(b'\x89PNG')
    fronts = json.loads((tmp_path / 'new' / 'front.json').read_text())
    for kind, front in fronts.items():
        assert [setting['macs'] for setting in front] == [
            setting.macs for setting in pareto_front('small', 512, 512, subsampling=kind)
        ]
    assert [*fronts] == ['conv', 'separable', 'pool']
    assert re.search(r'│ conv \(published\) +│ 7 7 7 7 +│ 8 4 2 1 +│ +256 │ +23.55 │ +16.57 │', done.stdout)
    assert re.search(r'│ pool +│ 13 7 7 7 +│ 14 8 4 2 +│ +64 │ +21.71 │ +14.84 │', done.stdout)
    done = call_tool('gsa_cost.py', '--front', '--subsampling', 'pool', '--out', tmp_path)
    assert [*json.loads((tmp_path / 'front.json').read_text())] == ['pool']
    done = call_tool('gsa_cost.py', '--subsampling', 'pool', '--size', 512, '--out', tmp_path)
    assert "window_sizes=(13, 7, 7, 7), sr_ratios=(14, 8, 4, 2), subsampling='pool'" in done.stdout
    done = call_tool('gsa_cost.py', '--subsampling', 'pool', '--compare', 512, '--out', tmp_path)
    assert '| 512 x 512 | calibrated, pool | 13 7 7 7 | 14 8 4 2 | 21.7 | 14.84 | 0.90 |' in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', '16'], 'error: 16 x 16 pixels leave no token in the last stage'),
        (['--update', 'a.md'], '--update goes with --compare'),
        (['--front', '--compare'], '--front counts for one --size: leave --compare and --measure out'),
        (['--front', '--size', '16'], 'error: 16 x 16 pixels'),
        (['--subsampling', 'max'], 'invalid choice'),
    ],
)
def test_gsa_cost_says_what_is_wrong_in_one_line(arguments: list[str], message: str, call_tool) -> None:
    done = call_tool('gsa_cost.py', *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
