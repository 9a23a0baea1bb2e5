"""Progress bars: on a terminal alone, on stderr, with the time left."""

import io
import sys

import pytest

from mmtwins.commands.bars import follow, seconds_left, stepping, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_is_done_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(sys, 'stderr', Terminal())
    out = io.StringIO()
    monkeypatch.setattr(sys, 'stdout', out)
    for item in follow(range(3), 'drawing'):
        print(item)
    text = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert 'drawing' in text and '3/3' in text and 'left:' in text
    assert out.getvalue() == '0\n1\n2\n'  # a pipe gets what is printed, and nothing else


@pytest.mark.parametrize(
    ('elapsed', 'done', 'total', 'left'),
    [(6, 1, 3, 12), (6, 3, 3, 0), (6, 4, 3, 0), (0, 0, 0, 0), (6, 0, 3, None), (6, 2, None, None), (1.5, 3, 4, 0.5)],
)
def test_the_time_left_is_known_after_one_step(
    elapsed: float, done: float, total: float | None, left: float | None
) -> None:
    assert seconds_left(elapsed, done, total) == left


def test_a_terminal_shows_that_something_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setattr(sys, 'stderr', terminal := Terminal())
    with waiting('importing PyTorch'):
        assert 'importing PyTorch' in terminal.getvalue() and '0:00:00' in terminal.getvalue()
        assert sys.stderr is terminal  # a logger that is made now keeps its stream
    assert terminal.getvalue().endswith('\x1b[2K')  # and the line goes


@pytest.mark.parametrize('known', [True, False])
def test_elsewhere_nothing_is_shown(known: bool, capsys: pytest.CaptureFixture) -> None:
    items = [1, 2] if known else iter([1, 2])
    assert list(follow(items, 'drawing')) == [1, 2]
    with stepping('exporting', 2) as step:
        step()
    with waiting('importing PyTorch'):
        pass
    assert capsys.readouterr() == ('', '')


def test_without_rich_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'rich.console', None)
    assert list(follow([1, 2], 'trying')) == [1, 2]
    with waiting('importing PyTorch'):
        pass
