"""Who started a process, and how it is connected and wrapped without a GPU."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from mmtwins.engine import distributed
from mmtwins.engine.distributed import SameBuffersHook, check_launcher, is_first_process, prepare_processes

STARTED = dict(
    pytorch=dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='1', MASTER_ADDR='a', MASTER_PORT='1'),
    slurm=dict(SLURM_PROCID='1', SLURM_NTASKS='2', SLURM_NODELIST='a', SLURM_LOCALID='1'),
    mpi=dict(OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='1', MASTER_ADDR='a'),
)


@pytest.fixture(autouse=True)
def _nobody_started_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*os.environ, 'MASTER_PORT', 'SLURM_LOCALID'):
        monkeypatch.setenv(name, os.environ.get(name, ''))  # restored afterwards
        if name.startswith(('SLURM', 'OMPI', 'MASTER', 'TORCHELASTIC')) or name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
            monkeypatch.delenv(name)


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list:
    """The calls that would connect the processes."""
    calls: list = []
    monkeypatch.setattr(distributed, 'init_dist', lambda launcher, **kwargs: calls.append((launcher, kwargs)))
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    return calls


@pytest.mark.parametrize(
    ('launcher', 'message'),
    [
        (
            'pytorch',
            'torchrun starts, and RANK is not set: start them with tools/dist_train.sh or tools/dist_test.sh, or leave',
        ),
        (
            'slurm',
            'srun starts, and SLURM_PROCID is not set: start them with tools/slurm_train.sh or tools/slurm_test.sh, or',
        ),
        ('mpi', 'mpirun starts, and OMPI_COMM_WORLD_RANK is not set: start them with mpirun, or leave --launcher out'),
    ],
)
def test_a_launcher_alone_is_answered_by_the_command_to_use(
    launcher: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f'--launcher {launcher} is for processes that {message}'):
        check_launcher(launcher)
    for name, value in STARTED[launcher].items():
        monkeypatch.setenv(name, value)
    check_launcher(launcher)


def test_processes_that_would_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launcher('none')
    monkeypatch.setenv('WORLD_SIZE', '2')
    check_launcher('none')  # who knows what set it
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'a')
    with pytest.raises(ValueError, match=r'torchrun started 2 processes that .*: add --launcher pytorch'):
        check_launcher('none')
    monkeypatch.setenv('WORLD_SIZE', '1')
    check_launcher('none')


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    for name, value in STARTED['pytorch'].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match='no GPU for process 2 of this machine: start as many processes as it has GPUs, 1'
    ):
        check_launcher('pytorch')
    monkeypatch.setenv('LOCAL_RANK', '0')
    check_launcher('pytorch')


def test_gpus_are_left_to_mmengine(joined: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    cfg = Config(dict(launcher='pytorch'))
    prepare_processes(cfg)
    assert set(cfg.keys()) == {'launcher'}
    assert joined == []


def test_cpus_are_connected_by_gloo_with_the_options_of_the_config(joined: list) -> None:
    set_device = torch.cuda.set_device
    env = dict(dist_cfg=dict(backend='nccl', timeout=60), mp_cfg=dict(opencv_num_threads=1))
    cfg = Config(dict(launcher='slurm', env_cfg=env, find_unused_parameters=True))
    prepare_processes(cfg)
    assert joined == [('slurm', dict(backend='gloo', timeout=60))]
    assert torch.cuda.set_device is set_device
    wrapper = dict(type='CPUDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True)
    assert cfg.model_wrapper_cfg == wrapper
    own = Config(dict(launcher='pytorch', model_wrapper_cfg=dict(type='Own')))
    prepare_processes(own)
    assert own.model_wrapper_cfg == dict(type='Own')
    flexible = Config(dict(launcher='pytorch', runner_type='FlexibleRunner'))
    prepare_processes(flexible)
    assert flexible.strategy == dict(type='DDPStrategy', model_wrapper={**wrapper, 'find_unused_parameters': False})
    assert 'model_wrapper_cfg' not in flexible


@pytest.mark.parametrize(('job', 'step', 'port'), [('7', None, '20007'), ('1', '2', '20003'), ('20007', '0', '20007')])
def test_jobs_of_slurm_that_share_a_machine_have_ports_of_their_own(
    job: str, step: str | None, port: str, joined: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MASTER_PORT', '1')
    for name, value in (('SLURM_JOB_ID', job), ('SLURM_STEP_ID', step)):
        if value:
            monkeypatch.setenv(name, value)
    prepare_processes(Config(dict(launcher='slurm')))
    assert os.environ['MASTER_PORT'] == '1'
    monkeypatch.delenv('MASTER_PORT')
    prepare_processes(Config(dict(launcher='slurm')))
    assert os.environ['MASTER_PORT'] == port


def test_the_wrapper_of_cpus_has_plain_batch_norm_and_adds_gradients_in_the_order_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it gives in several real processes is tested in tests/faults/test_ranks.py."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        model = MODEL_WRAPPERS.build(
            dict(type='CPUDistributedDataParallel', broadcast_buffers=False),
            default_args=dict(module=nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4)), device_ids=[0]),
        )
        given = torch.randn(2, 3, 2, 2)
        assert not isinstance(model.module[1], nn.SyncBatchNorm)
        assert model(given).mean().abs() < 1e-6
        gather = torch.distributed.all_gather
        others = [1e8, -1e8]  # gradients of three processes: 1e8 - 1e8 + own is own, 1e8 + (own - 1e8) is not

        def gather_three(parts: list, part: torch.Tensor, **kwargs: Any) -> Any:
            for place, value in zip(parts, others):
                place.fill_(value)
            return gather(parts[2:], part, **kwargs)

        monkeypatch.setattr(torch.distributed, 'get_world_size', lambda *_: 3)
        monkeypatch.setattr(torch.distributed, 'all_gather', gather_three)
        model(given).square().sum().backward()
        expected = torch.autograd.grad(model.module(given).square().sum(), list(model.parameters()))
        for parameter, own in zip(model.parameters(), expected):
            assert torch.equal(parameter.grad, own / 3)
    finally:
        time.sleep(
            0.2
        )  # a thread of Gloo drops the hook; PyTorch joins the thread with the GIL held, which can deadlock
        torch.distributed.destroy_process_group()


def test_the_running_statistics_of_the_first_process_are_sent_before_an_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list = []
    monkeypatch.setattr(distributed, 'broadcast', lambda value: sent.append(value.data_ptr()))
    runner = type('Runner', (), dict(model=nn.BatchNorm2d(2)))
    SameBuffersHook().before_val_epoch(runner)
    assert sent == [value.data_ptr() for value in runner.model.buffers()]
    SameBuffersHook().before_test_epoch(runner)
    assert len(sent) == 6


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK'), ('none', 'SLURM_PROCID')],
)
def test_the_first_process_by_launcher(launcher: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert is_first_process(launcher)
    monkeypatch.setenv(variable, '0')
    assert is_first_process(launcher)
    monkeypatch.setenv(variable, '3')
    assert is_first_process(launcher) == (launcher == 'none')
