"""Progress with the time that is left."""

import io

from rich.console import Console

from mmtwins.demo import progress
from mmtwins.demo.progress import Meter, readable_time


def test_time_left(monkeypatch, capsys):
    """100 iterations of 0.5 s each: after 21 of them 39.5 s are left."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    console = Console(width=100)
    with Meter(console, 100, 'iterations', seconds=60) as meter:
        now[0] = 12.0  # loading
        meter.update(0)
        now[0] = 13.0
        meter.update(1)
        now[0] = 23.0
        meter.update(21, 'loss 1.00')
        now[0] = 60.0
        meter.update(100)
        meter.update(100)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '  0/100 iterations, about 60 s left'
    assert lines[1] == '  21/100 iterations, 40 s left   loss 1.00'
    assert len(lines) == 3 and lines[2].startswith('  100/100 iterations')


def test_a_resumed_run_counts_from_where_it_began(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
    with Meter(Console(width=100), 100, 'iterations', seconds=60, done=50) as meter:
        now[0] = 20.0
        meter.update(50)
    assert capsys.readouterr().out == '  50/100 iterations, about 30 s left\n'


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Meter(console, 10, 'scenes', seconds=5) as meter:
        meter.update(5, 'half')
        assert meter.bar.tasks[0].completed == 5


def test_times_read_well():
    assert [readable_time(seconds) for seconds in (0.4, 89, 90, 150.2)] == ['0 s', '89 s', '1 min 30 s', '2 min 30 s']
