"""Ends of runs: a sentence and exit code 1 on the process that may speak, one exit code for all."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtwins.engine import ending
from mmtwins.engine.ending import end_together, end_with_error


@pytest.fixture
def runner(tmp_path: Path) -> SimpleNamespace:
    logger = logging.Logger('run')
    logger.addHandler(logging.FileHandler(tmp_path / 'log'))
    logger.addHandler(logging.StreamHandler())
    return SimpleNamespace(logger=logger, world_size=1)


def test_the_sentence_is_on_stderr_and_in_the_log_once(
    runner: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        end_with_error(runner, 'no luck: try again')
    assert end.value.code == 'error: no luck: try again'  # which Python prints, with exit code 1
    assert (tmp_path / 'log').read_text() == 'no luck: try again\n'
    assert capsys.readouterr() == ('', '')


def test_other_processes_are_silent(runner: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, 'is_main_process', lambda: False)
    with pytest.raises(SystemExit) as end:
        end_with_error(runner, 'no luck')
    assert end.value.code == 1
    assert (tmp_path / 'log').read_text() == ''


def test_one_process_ends_as_any_program(runner: SimpleNamespace) -> None:
    with pytest.raises(SystemExit) as end:
        end_together(runner, 75)
    assert end.value.code == 75


def test_several_wait_for_each_other(runner: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list = []

    def leave(code: int) -> None:
        events.append(code)
        raise RuntimeError('left')

    monkeypatch.setattr(ending.torch.distributed, 'barrier', lambda: events.append('arrived'))
    monkeypatch.setattr(ending.logging, 'shutdown', lambda: events.append('logs written'))
    monkeypatch.setattr(ending.os, '_exit', leave)
    runner.world_size = 2
    with pytest.raises(RuntimeError, match='left'):
        end_together(runner, 75)
    assert events == ['arrived', 'logs written', 75]
