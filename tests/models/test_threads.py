"""The fast path leaves cores to other processes, and gives PyTorch its number of threads back."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from mmtwins.models.threads import PATIENCE, OtherProcesses, kept_threads, read_used, read_waits

SMALL = dict(embed_dims=(32, 64, 128, 256), depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8), mlp_ratios=(4, 4, 4, 4))


class Machine:
    """Some cores, whose time a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: Sequence[int] = (0, 1, 2, 5)) -> None:
        self.now = self.used = self.own = 0.0
        self.waits = {'1': 0.0}
        monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(cores), raising=False)
        monkeypatch.setattr(threads, 'sleeps_if_crowded', lambda: True)
        self.others = OtherProcesses(
            lambda asked: self.used if asked == set(cores) else -1,
            lambda: self.now,
            lambda: self.own,
            lambda: dict(self.waits),
        )

    def pass_time(self, seconds: float, ours: float, others: float, waiting: float = 0.0) -> None:
        """Args: how long; how many cores we and the others take meanwhile; how many of our threads wait for a core."""
        self.now += seconds
        self.own += seconds * ours
        self.waits['1'] += seconds * waiting
        self.used += seconds * (ours + others)

    def pass_windows(self, windows: int, ours: float, others: float, waiting: float = 0.0, asked: int = 4) -> list[int]:
        """The number of threads at the end of each of so many windows, as in :meth:`pass_time`."""
        self.others.threads_beside(asked)
        numbers = []
        for _ in range(windows):
            self.pass_time(0.25, ours, others, waiting)
            numbers.append(self.others.threads_beside(asked))
        return numbers


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
    assert machine.pass_windows(PATIENCE, 1, 3.0, waiting=1) == [1] * (PATIENCE - 1) + [8]
    assert [machine.others.threads_beside(asked) for asked in (2, 3, 16)] == [1, 1, 16]


def test_it_ends_as_slowly_as_it_begins(machine: Machine) -> None:
    machine.pass_windows(3 * PATIENCE, 1, 3.0, waiting=1)
    assert machine.pass_windows(PATIENCE + 1, 3.5, 0.5) == [8] * PATIENCE + [4]


@pytest.mark.parametrize('others', [1, 2, 4, 8])
@pytest.mark.parametrize('threads', [1, 2, 4, 8])
def test_what_others_want_does_not_depend_on_our_threads(machine: Machine, threads: int, others: int) -> None:
    share = min(1.0, 4 / (threads + others))  # of a core, for each thread and each other process
    numbers = machine.pass_windows(PATIENCE, share * threads, share * others, waiting=(1 - share) * threads)
    assert (numbers[-1] == 8) == (others > 2)


@pytest.mark.parametrize(('number', 'expected'), [(2, 2), (4, 1)])
def test_those_that_adapt_share_the_cores(monkeypatch: pytest.MonkeyPatch, number: int, expected: int) -> None:
    machines = [Machine(monkeypatch) for _ in range(number)]
    numbers = [machine.others.threads_beside(4) for machine in machines]
    for _ in range(20):
        share = min(1.0, 4 / sum(numbers))
        for machine, ours in zip(machines, numbers, strict=True):
            others = sum(numbers) - ours
            machine.pass_time(0.25, share * ours, share * others, waiting=(1 - share) * ours)
        numbers = [machine.others.threads_beside(4) for machine in machines]
    assert numbers == [expected] * number


def test_a_thread_that_ends_takes_no_waiting_with_it(machine: Machine) -> None:
    ending = [f'ending {number}' for number in range(PATIENCE)]
    machine.waits.update(dict.fromkeys(ending, 10.0))
    machine.others.threads_beside(4)
    for name in ending:
        del machine.waits[name]
        (number,) = machine.pass_windows(1, 1, 3.0, waiting=1)
    assert number == 8


def test_the_quota_of_a_container_is_no_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, range(16))
    assert set(machine.pass_windows(2 * PATIENCE, 4, 3, waiting=12, asked=16)) == {13}


def test_another_openmp_library_has_no_more_threads_than_cores(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, 'sleeps_if_crowded', lambda: False)
    assert set(machine.pass_windows(2 * PATIENCE, 1, 3.0, waiting=1)) == {1}


@pytest.mark.skipif(not os.path.exists('/proc/self/maps'), reason='needs /proc')
def test_the_openmp_library_is_found() -> None:
    uses_gnu = 'libgomp' in Path('/proc/self/maps').read_text() and 'libiomp' not in torch.__config__.parallel_info()
    assert threads.sleeps_if_crowded.__wrapped__() == uses_gnu


def test_a_pause_makes_it_forget(machine: Machine) -> None:
    machine.pass_windows(PATIENCE, 1, 3.0, waiting=1)
    machine.pass_time(0.5, 0.1, 3.0)
    assert machine.others.threads_beside(4) == 8
    machine.pass_time(5, 0.1, 3.0)
    assert machine.others.threads_beside(4) == 4


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
    for name in ('MMTWINS_KEEP_THREADS', *threads.BINDING):
        monkeypatch.delenv(name, raising=False)
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


@pytest.mark.parametrize('way', ['kept_threads', 'variable', 'bound', 'deterministic', 'no fast path'])
def test_the_threads_can_be_kept(
    way: str, backbone: nn.Module, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == 'variable':
        monkeypatch.setenv('MMTWINS_KEEP_THREADS', '1')
    elif way == 'bound':
        monkeypatch.setenv('OMP_PROC_BIND', 'close')
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
    for number in (1, 2, 4):
        monkeypatch.setattr(threads._others, 'threads_beside', lambda asked, number=number: number)
        with torch.no_grad():
            maps.append(backbone(x))
    assert_close(maps[1:], [maps[0]] * 2, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(('busy', 'expected'), [(1, {1, 4}), (3, {4})])  # with 1, the other tests may be the rest
def test_busy_processes_are_noticed(
    make_step: Callable[[], None], two_threads: None, busy: int, expected: set[int]
) -> None:
    if len(os.sched_getaffinity(0)) != 2 or not read_waits() or not threads.sleeps_if_crowded():
        pytest.skip('needs two cores, schedstat and libgomp')
    others = OtherProcesses()
    with busy_processes(busy):
        seen = []
        for _ in range(30):
            seen.append(others.threads_beside(2))
            make_step()
    assert sum(number in expected for number in seen[20:]) > 5


@pytest.mark.slow
def test_waiting_is_that_of_each_thread() -> None:
    if not any(read_waits().values()):
        pytest.skip('needs schedstat')
    busy = threading.Thread(target=hashlib.pbkdf2_hmac, args=('sha256', b'a', b'b', 3_000_000))
    busy.start()
    before = read_waits()
    with busy_processes(2 * len(os.sched_getaffinity(0))):
        time.sleep(0.5)
    grown = {name: wait - before[name] for name, wait in read_waits().items() if name in before}
    busy.join()
    assert max(grown.values()) > 0.1 and max(grown, key=grown.get) != str(os.getpid())


@pytest.fixture
def make_step() -> Callable[[], None]:
    x = torch.randn(1024, 1024)
    return lambda: [x @ x for _ in range(10)] and None
