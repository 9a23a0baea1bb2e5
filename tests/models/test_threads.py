"""The fast path leaves cores to other processes, and gives PyTorch its number of threads back."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import mmtwins
from mmtwins.benchmark.load import busy_processes
from mmtwins.models import fast_ops, threads
from mmtwins.models.fast_path import fast_path
from mmtwins.models.threads import PATIENCE, OtherProcesses, kept_threads, read_used, read_wait

SMALL = dict(embed_dims=(32, 64, 128, 256), depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratios=(4, 4, 4, 4))


class Machine:
    """Four cores, whose time a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.used = self.own = self.wait = 0.0
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 1, 2, 5}, raising=False)
        self.others = OtherProcesses(
            lambda cores: self.used if cores == {0, 1, 2, 5} else -1,
            lambda: self.now,
            lambda: self.own,
            lambda: self.wait,
        )

    def pass_time(self, seconds: float, ours: float, others: float, waiting: float = 0.0) -> None:
        """Args: how long; how many cores we and the others take meanwhile; how many of our threads wait for a core."""
        self.now += seconds
        self.own += seconds * ours
        self.wait += seconds * waiting
        self.used += seconds * (ours + others)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_others_get_the_cores_that_they_take(machine: Machine) -> None:
    numbers = [machine.others.threads_beside(4)]
    for ours, others in [(4, 0.0), (3, 1.0), (2, 0.4), (1.6, 2.4), (0.6, 3.4), (1, 3.0), (1, 0.0)]:
        machine.pass_time(0.25, ours, others)
        numbers.append(machine.others.threads_beside(4))
    assert numbers == [4, 4, 3, 4, 2, 1, 1, 4]
    assert machine.others.threads_beside(3) == 3  # never more than PyTorch has


def test_beside_many_there_are_twice_as_many_threads_as_cores(machine: Machine) -> None:
    machine.others.threads_beside(4)
    numbers = []
    for _ in range(PATIENCE):
        machine.pass_time(0.25, 1, 3.0)
        numbers.append(machine.others.threads_beside(4))
    assert numbers == [1] * (PATIENCE - 1) + [8]
    assert [machine.others.threads_beside(asked) for asked in (2, 3, 16)] == [1, 1, 16]


def test_one_window_does_not_change_it(machine: Machine) -> None:
    machine.others.threads_beside(4)
    for _ in range(3 * PATIENCE):
        machine.pass_time(0.25, 1, 3.0)
        machine.others.threads_beside(4)
    for _ in range(PATIENCE):
        machine.pass_time(0.25, 3.5, 0.5)
        assert machine.others.threads_beside(4) == 8
    machine.pass_time(0.25, 3.5, 0.5)
    assert machine.others.threads_beside(4) == 4


@pytest.mark.parametrize('others', [1, 2, 4, 8])
@pytest.mark.parametrize('threads', [1, 2, 4, 8])
def test_what_others_want_does_not_depend_on_our_threads(machine: Machine, threads: int, others: int) -> None:
    machine.others.threads_beside(4)
    share = min(1.0, 4 / (threads + others))  # of a core, for each thread and each other process
    for _ in range(PATIENCE):
        machine.pass_time(0.25, share * threads, share * others, waiting=(1 - share) * threads)
        number = machine.others.threads_beside(4)
    assert (number == 8) == (others > 2)


def test_two_that_adapt_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [Machine(monkeypatch), Machine(monkeypatch)]
    numbers = [machine.others.threads_beside(4) for machine in pair]
    for _ in range(20):
        share = min(1.0, 4 / sum(numbers))
        for machine, ours, others in zip(pair, numbers, reversed(numbers), strict=True):
            machine.pass_time(0.25, share * ours, share * others, waiting=(1 - share) * ours)
        numbers = [machine.others.threads_beside(4) for machine in pair]
    assert numbers == [2, 2]


def test_more_threads_than_cores_are_not_used_alone(machine: Machine) -> None:
    assert machine.others.threads_beside(16) == 4


def test_a_window_is_long_enough(machine: Machine) -> None:
    machine.others.threads_beside(4)
    machine.pass_time(0.1, 2, 2)
    assert machine.others.threads_beside(4) == 4
    machine.pass_time(0.15, 2, 2)
    assert machine.others.threads_beside(4) == 2


def test_what_others_do_while_we_do_not_compute_does_not_count(machine: Machine) -> None:
    machine.others.threads_beside(4)
    machine.pass_time(60, 0.1, 3.9)
    assert machine.others.threads_beside(4) == 4
    machine.pass_time(60, 0.1, 3.9, waiting=0.9)  # we would have computed
    assert machine.others.threads_beside(4) == 1


def test_a_system_that_does_not_say_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OtherProcesses(lambda cores: None).threads_beside(64) == 64
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    assert OtherProcesses(lambda cores: 1.0).threads_beside(64) == 64


@pytest.mark.skipif(not os.path.exists('/proc/stat'), reason='needs /proc/stat')
def test_time_is_that_of_the_cores() -> None:
    cores = os.sched_getaffinity(0)
    parts = [read_used({core}) for core in cores]
    total = read_used(cores)
    assert all(part is not None and part > 0 for part in parts)
    assert total is not None and total == pytest.approx(sum(filter(None, parts)), abs=1.0)
    assert read_used(set()) == 0


# In the model ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def backbone() -> mmtwins.TwinsSVTBackbone:
    torch.manual_seed(0)
    return mmtwins.TwinsSVTBackbone(arch=SMALL)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> Iterator[list[int]]:
    """Two threads, of which other processes leave one; the list gets the number at each product."""
    numbers: list[int] = []
    linear = fast_ops.linear

    def noting(*args: torch.Tensor) -> torch.Tensor:
        numbers.append(torch.get_num_threads())
        return linear(*args)

    monkeypatch.setattr(fast_ops, 'linear', noting)
    monkeypatch.setattr(threads._others, 'threads_beside', lambda asked: 1)
    monkeypatch.delenv('MMTWINS_KEEP_THREADS')
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield numbers
    torch.use_deterministic_algorithms(before)
    assert torch.get_num_threads() == 2


def test_a_forward_pass_leaves_the_core(backbone: nn.Module, seen: list[int]) -> None:
    with torch.no_grad():
        backbone(torch.randn(1, 3, 64, 64))
    assert set(seen) == {1}


def test_a_backward_pass_leaves_it_too(backbone: nn.Module, seen: list[int]) -> None:
    out = sum(x.sum() for x in backbone(torch.randn(1, 3, 64, 64)))
    assert set(seen) == {1} and torch.get_num_threads() == 2
    seen.clear()
    out.backward()
    assert seen and set(seen) == {1}


def test_a_pass_that_fails_gives_the_threads_back(
    backbone: nn.Module, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('a test')

    monkeypatch.setattr(fast_ops, 'attend_globally', fail)
    with pytest.raises(RuntimeError, match='a test'):
        backbone(torch.randn(1, 3, 64, 64))
    assert torch.get_num_threads() == 2
    monkeypatch.undo()


def test_threads_of_a_failed_backward_pass_come_back_with_the_next_pass(backbone: nn.Module, seen: list[int]) -> None:
    def fail(grad: torch.Tensor) -> None:
        raise RuntimeError('a test')

    first = backbone.patch_embeds[0].proj.weight
    handle = first.register_hook(fail)
    with pytest.raises(RuntimeError, match='a test'):
        backbone(torch.randn(1, 3, 64, 64))[3].sum().backward()
    handle.remove()
    backbone(torch.randn(1, 3, 64, 64))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize('way', ['kept_threads', 'variable', 'deterministic', 'no fast path'])
def test_the_threads_can_be_kept(
    way: str, backbone: nn.Module, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == 'variable':
        monkeypatch.setenv('MMTWINS_KEEP_THREADS', '1')
    elif way == 'deterministic':
        torch.use_deterministic_algorithms(True)
    numbers: list[int] = []
    backbone.norm_list[0].register_forward_hook(lambda *_: numbers.append(torch.get_num_threads()))
    try:
        with fast_path(way != 'no fast path'), kept_threads() if way == 'kept_threads' else nullcontext():
            backbone(torch.randn(1, 3, 64, 64))[0].sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert numbers == [2] and set(seen) <= {2}


def test_other_threads_of_python_keep_theirs(backbone: nn.Module, seen: list[int]) -> None:
    def run() -> None:
        torch.set_num_threads(2)
        with torch.no_grad():
            backbone(torch.randn(1, 3, 64, 64))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert set(seen) == {2}


def test_features_do_not_depend_on_the_number(
    backbone: nn.Module, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('MMTWINS_KEEP_THREADS')
    x, maps = torch.randn(1, 3, 160, 224), []
    backbone.eval()
    for number in (1, 2):
        monkeypatch.setattr(threads._others, 'threads_beside', lambda asked, number=number: number)
        with torch.no_grad():
            maps.append(backbone(x))
    assert_close(*maps, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(('busy', 'expected'), [(1, 1), (3, 4)])
def test_busy_processes_are_noticed(make_step: Callable[[], None], two_threads: None, busy: int, expected: int) -> None:
    if len(os.sched_getaffinity(0)) != 2:
        pytest.skip('needs two cores')
    others = OtherProcesses()
    with busy_processes(busy):
        seen = []
        for _ in range(30):
            seen.append(others.threads_beside(2))
            make_step()
    assert seen[20:].count(expected) > 5


@pytest.mark.skipif(not os.path.exists('/proc/thread-self/schedstat'), reason='needs schedstat')
def test_waiting_is_that_of_all_threads() -> None:
    main = int(Path('/proc/thread-self/schedstat').read_text().split()[1]) / 1e9
    others = read_wait() - main
    assert main > 0 and others >= 0
    with busy_processes(2 * len(os.sched_getaffinity(0))):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    assert read_wait() > main + others + 0.1


@pytest.fixture
def make_step() -> Callable[[], None]:
    x = torch.randn(1024, 1024)
    return lambda: [x @ x for _ in range(10)] and None
