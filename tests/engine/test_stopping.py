"""When the hook listens to signals, and when not; what a signal does to a training is in tests/faults/test_signals.py."""

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_training import finish

from mmtwins.engine import stopping
from mmtwins.engine.stopping import SIGNALS, StopOnSignalHook


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping._training = None


def make_runner(**kwargs: Any) -> Any:
    return SimpleNamespace(**{'rank': 0, 'world_size': 1, 'hooks': [], 'epoch': 0, 'iter': 3, 'max_iters': 9, **kwargs})


def test_it_listens_while_a_training_runs_and_leaves_no_trace(capfd: pytest.CaptureFixture) -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = {}
    for number in SIGNALS:
        signal.signal(number, mine)
        before[number] = signal.getsignal(number)
    hook = StopOnSignalHook()
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    hook.before_train(make_runner())
    assert all(signal.getsignal(number) == hook._receive for number in SIGNALS)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert hook._received == signal.SIGUSR1
    hook.after_train(make_runner())
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
    assert (
        capfd.readouterr().err == '\nSIGUSR1: saving a checkpoint after this iteration; a second signal ends at once\n'
    )


def test_one_process_speaks_for_all(capfd: pytest.CaptureFixture) -> None:
    hook = StopOnSignalHook()
    hook.before_train(make_runner(rank=1, world_size=2))
    os.kill(os.getpid(), signal.SIGTERM)
    assert hook._received == signal.SIGTERM
    assert capfd.readouterr().err == ''


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    hook = StopOnSignalHook()
    hook.before_train(make_runner())
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    os.kill(os.getpid(), signal.SIGINT)
    assert hook._received == 0


def test_it_does_not_listen_in_a_thread() -> None:
    hook = StopOnSignalHook()
    before = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=hook.before_train, args=[make_runner()])
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.parametrize('trains', [True, False])
def test_only_workers_of_a_training_ignore_signals(trains: bool, tmp_path: Any) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us in the background
    if trains:
        StopOnSignalHook().before_train(make_runner())

    process = os.fork()
    if process == 0:
        ignored = [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGUSR1)]
        os._exit(10 + sum(ignored))
    assert finish(process) == (12 if trains else 10)
