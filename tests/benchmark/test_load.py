"""Busy processes beside a measurement: they work while it runs, and are gone afterwards."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmtwins.benchmark import measure
from mmtwins.benchmark.load import busy_processes
from mmtwins.benchmark.task import Task


def cpu_ticks(pid: int) -> int:
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_they_use_processor_time_and_end_with_the_body() -> None:
    with busy_processes(2) as processes:
        assert len(processes) == 2
        before = [cpu_ticks(process.pid) for process in processes]
        deadline = time.monotonic() + 60
        while any(cpu_ticks(p.pid) < start + 2 for p, start in zip(processes, before, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert all(process.returncode is not None for process in processes)


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_they_end_when_the_body_fails(error: type[BaseException]) -> None:
    with pytest.raises(error), busy_processes(1) as (process,):
        raise error
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_time_is_measured_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list = []

    @contextmanager
    def beside(number: int) -> Iterator[None]:
        events.append(number)
        yield
        events.append('ended')

    def time_in_turn(steps: dict, *_: object) -> dict:
        events.append('timed')
        return dict.fromkeys(steps, (1.0,))

    monkeypatch.setattr(measure, 'busy_processes', beside)
    monkeypatch.setattr(measure, 'time_in_turn', time_in_turn)
    measure.measure_time(Task('inference', 64, 64, load=3), ['mmtwins'])
    assert events == [3, 'timed', 'ended']
