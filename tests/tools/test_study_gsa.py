"""tools/study_gsa.py: from nothing to the page, and what it says of wrong arguments."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')


@pytest.mark.slow
def test_one_command_trains_measures_and_writes_the_page(call_tool, tmp_path: Path) -> None:
    page = tmp_path / 'docs/gsa.md'
    page.parent.mkdir()
    page.write_text('# Title\n')
    arguments = ['--tiny', '--iterations', '2', '--seeds', '0', '--only', 'lsa', 'gsa', '--jobs', '1']
    arguments += ['--work-dir', tmp_path / 'work', '--results', tmp_path / 'results', '--page', page]
    done = call_tool('study_gsa.py', *arguments)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert '| LSA only | 7 7 7 7 |  |' in text and '| GSA only |  | 8 4 2 1 |' in text
    assert {path.name for path in (page.parent / 'gsa').iterdir()} == {'accuracy.png', 'maps.png'}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / 'results').iterdir()}
    assert len(kept) == 3
    assert call_tool('study_gsa.py', *arguments).returncode == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / 'results').iterdir()}


@pytest.mark.parametrize(('wrong', 'said'), [(['--iterations', '0'], '--iterations 0: give at least 1'),
                                             (['--seeds', '-1'], '--seeds -1'), (['--only', 'x'], 'invalid choice')])  # fmt: skip
def test_wrong_arguments_end_in_one_line(call_tool, wrong: list[str], said: str) -> None:
    done = call_tool('study_gsa.py', *wrong)
    assert done.returncode == 2 and said in done.stderr


def test_without_results_nothing_is_written(call_tool, tmp_path: Path) -> None:
    done = call_tool('study_gsa.py', '--kept', '--only', 'k7', '--results', tmp_path, '--work-dir', tmp_path)
    assert done.returncode == 1 and 'has no results of' in done.stderr
