"""tools/gsa_cost.py: what it shows, draws, updates and refuses."""

import re
from pathlib import Path

import pytest


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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--size', '16'], 'error: 16 x 16 pixels leave no token in the last stage'),
        (['--update', 'a.md'], '--update goes with --compare'),
    ],
)
def test_gsa_cost_says_what_is_wrong_in_one_line(arguments: list[str], message: str, call_tool) -> None:
    done = call_tool('gsa_cost.py', *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
