"""Several processes of one training: what one of them meets, all end with; a resumed training ends as an uninterrupted one."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from tiny_training import (
    ITERATIONS,
    count_differences,
    finish,
    iterations_done,
    make_config,
    progress,
    read_checkpoint,
    start,
    train,
)

from mmtwins.engine.fsdp import SHARDS_ON_CPUS
from mmtwins.engine.work_dir import locked_work_dir

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip('needs a PyTorch with gloo', allow_module_level=True)


@HOOKS.register_module()
class FaultHook(Hook):
    """Spoils the weights of a process, or fills its disk, from the middle of a training on.

    Args:
        what: ``'weights'`` or ``'disk'``.
        rank: Of the process.
    """

    priority = 'HIGH'  # before the checkpoint hook

    def __init__(self, what: str, rank: int) -> None:
        self.what, self.rank = what, rank

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.rank != self.rank or runner.iter + 1 < ITERATIONS // 2:
            return
        if self.what == 'disk':
            shutil.disk_usage = lambda path: SimpleNamespace(free=0)
        else:
            with torch.no_grad():
                next(value for value in runner.model.parameters() if value.numel()).fill_(float('nan'))


KINDS: dict[str, dict[str, Any]] = {
    'DDP': {},
    'FlexibleRunner': {'runner_type': 'FlexibleRunner'},
    'FSDP': {'runner_type': 'FlexibleRunner', 'strategy': dict(type='FSDPStrategy')},
}


def begin(work_dir: Path, world_size: int = 2, **options: Any) -> list[int]:
    """Start the processes of a training; what rank N prints is added to ``work_dir-N.log``."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    progress[:] = bytes(4)

    def run(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
        train(make_config(work_dir, launcher='pytorch', **options))

    return [start(lambda rank=rank: run(rank), log_of(work_dir, rank)) for rank in range(world_size)]


def log_of(work_dir: Path, rank: int = 0) -> Path:
    return work_dir.with_name(f'{work_dir.name}-{rank}.log')


def wait_for(iterations: int, work_dir: Path) -> None:
    deadline = time.monotonic() + 60
    while iterations_done() < iterations:
        assert time.monotonic() < deadline, log_of(work_dir).read_text()[-3000:]
        time.sleep(0.005)


def finish_all(processes: list[int]) -> list[int]:
    return [finish(process) for process in processes]


def last(work_dir: Path) -> Path:
    return work_dir / f'iter_{ITERATIONS}.pth'


shards_on_cpus = pytest.mark.skipif(not SHARDS_ON_CPUS, reason='torch 2.1 does not shard on CPUs')


@pytest.mark.parametrize(('kind', 'world_size'), [
    pytest.param('FSDP', 2, marks=shards_on_cpus),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [('DDP', 2), ('DDP', 4), ('FlexibleRunner', 2), ('FSDP', 4)]),
])  # fmt: skip
def test_killed_and_signalled_trainings_end_as_an_uninterrupted_one(kind: str, world_size: int, tmp_path: Path) -> None:
    reference, work_dir, options = tmp_path / 'reference', tmp_path / 'work', KINDS[kind]
    assert finish_all(begin(reference, world_size, **options)) == [0] * world_size, log_of(reference).read_text()[
        -3000:
    ]
    processes = begin(work_dir, world_size, **options, **{'model.delay': 0.01})
    wait_for(10, work_dir)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    assert set(finish_all(processes)) <= {-signal.SIGKILL, 1}  # a process may end when its peer has gone
    processes = begin(work_dir, world_size, **options, **{'model.delay': 0.01})
    wait_for(18, work_dir)
    os.kill(processes[0 if kind == 'FSDP' else -1], signal.SIGTERM)
    assert finish_all(processes) == [75] * world_size, log_of(work_dir).read_text()[-3000:]
    saved = Path((work_dir / 'last_checkpoint').read_text())
    done = read_checkpoint(saved)['meta']['iter']
    assert saved.name == f'iter_{done}.pth'
    assert 18 <= done < ITERATIONS
    assert finish_all(begin(work_dir, world_size, **options)) == [0] * world_size
    log = log_of(work_dir).read_text()
    assert f'Stopped by SIGTERM after iteration {done}. {saved} is written' in log
    assert f'Resumed at iteration {done} without reading the images before it. The run equals an uninterrupted' in log
    assert 'Traceback' not in log
    assert count_differences(last(work_dir), last(reference)) == 0
    assert [path.name for path in work_dir.glob('*.pth')] == [last(work_dir).name]


@pytest.mark.parametrize('kind', ['DDP', pytest.param('FSDP', marks=shards_on_cpus)])
@pytest.mark.parametrize(
    ('what', 'rank', 'message'),
    [
        ('disk', 0, 'iter_20.pth cannot be written: it needs 0.'),
        ('weights', 1, 'no checkpoint is written after iteration 20, because layers.0.weight holds numbers that are not'),
    ],
    ids=['disk', 'weights'],
)  # fmt: skip
def test_what_one_process_meets_ends_all_and_keeps_the_last_checkpoint(
    what: str, rank: int, message: str, kind: str, tmp_path: Path
) -> None:
    work_dir, hook = tmp_path / 'work', dict(type='FaultHook', what=what, rank=rank)
    if kind == 'DDP' and what == 'weights':
        rank = hook['rank'] = 0  # which writes; the others learn of it
        message = message.replace('layers', 'module.layers')
    assert finish_all(begin(work_dir, custom_hooks=[hook], **KINDS[kind])) == [1, 1]
    logs = [log_of(work_dir, rank).read_text() for rank in (0, 1)]
    assert message in logs[0]
    assert f'{work_dir}/iter_16.pth' in logs[0].splitlines()[-1]
    assert not any('Traceback' in log for log in logs), logs
    assert [path.name for path in work_dir.glob('*.pth')] == ['iter_16.pth']
    assert read_checkpoint(work_dir / 'iter_16.pth')['meta']['iter'] == 16


def test_the_work_directory_is_for_the_processes_of_one_training(tmp_path: Path) -> None:
    work_dir = tmp_path / 'work'
    with locked_work_dir(str(work_dir)):
        assert finish_all(begin(work_dir)) == [1, 1]
        log = log_of(work_dir).read_text()
        assert log.splitlines()[-1].startswith(
            f'error: another training writes to {work_dir}: process {os.getpid()} on '
        )
        assert log_of(work_dir, 1).read_text().count('error') == 0
        assert not list(work_dir.glob('*.pth'))
