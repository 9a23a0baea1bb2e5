"""Several processes: check how they were started, connect them (by gloo without GPUs), and keep their buffers equal."""

import os
from functools import reduce
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast, init_dist, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import HOOKS, MODEL_WRAPPERS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, nn

from .fsdp import TwinsFSDPStrategy, check_options, uses_fsdp

# Launchers: the program that starts the processes, what it sets for each (the rank first), and our script around it.
LAUNCHERS = dict(
    pytorch=('torchrun', ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'), 'dist'),
    slurm=('srun', ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'slurm'),
    mpi=('mpirun', ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MASTER_ADDR'), None),
)
LOCAL_RANKS = dict(pytorch='LOCAL_RANK', slurm='SLURM_LOCALID', mpi='OMPI_COMM_WORLD_LOCAL_RANK')


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """MMEngine's wrapper for models on a CPU.

    Synchronised batch norm does not run on CPUs and becomes plain batch norm. Gradients are added in the order of the
    processes. PyTorch's own order depends on places in buffers, which change after the first step of a process, so a resumed
    training would round differently.

    Args:
        module: The model.
        device_ids: Ignored; MMEngine's Runner passes the number of a GPU.
        kwargs: As for ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs: Any) -> None:
        super().__init__(revert_sync_batchnorm(module), **kwargs)
        self.register_comm_hook(None, _average_in_order)


def _average_in_order(_: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
    part = bucket.buffer()
    parts = [torch.empty_like(part) for _ in range(torch.distributed.get_world_size())]
    gathered = torch.distributed.all_gather(parts, part, async_op=True).get_future()
    return gathered.then(lambda _: reduce(torch.add, parts) / len(parts))  # torch.mean may take another order at an end


@HOOKS.register_module()
class SameBuffersHook(Hook):
    """Give all processes the running statistics of the first before a validation or a test.

    With plain batch norm, each process collects statistics from its own images, and a checkpoint has those of the first
    process. With this hook the metrics are those of the checkpoint, however many processes compute them.
    """

    priority = 'LOW'  # after a moving average has taken the place of the weights

    def before_val_epoch(self, runner: Runner) -> None:
        """Send the buffers of the first process to all others."""
        for buffer in runner.model.buffers():
            broadcast(buffer)

    before_test_epoch = before_val_epoch


def check_launcher(launcher: str) -> None:
    """Check that the launcher started this process, and that there is a GPU for it if the machine has any.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ValueError: Something else started it, or there is no GPU for it; the message says how to start it.
    """
    if launcher == 'none':
        num = int(os.environ.get('WORLD_SIZE', 1))
        if num > 1 and 'TORCHELASTIC_RUN_ID' in os.environ:
            raise ValueError(
                f'torchrun started {num} processes that would not know of each other: add --launcher pytorch'
            )
        return
    program, variables, script = LAUNCHERS[launcher]
    missing = [name for name in variables if name not in os.environ]
    if missing:
        start = f'tools/{script}_train.sh or tools/{script}_test.sh' if script else program
        raise ValueError(
            f'--launcher {launcher} is for processes that {program} starts, and {missing[0]} is not set: start them with '
            f'{start}, or leave --launcher out for a single process'
        )
    rank, num_gpus = int(os.environ.get(LOCAL_RANKS[launcher], 0)), torch.cuda.device_count()
    if get_device() == 'cuda' and rank >= num_gpus:
        raise ValueError(
            f'there is no GPU for process {rank + 1} of this machine: start as many processes as it has GPUs, {num_gpus}'
        )


def is_first_process(launcher: str) -> bool:
    """Whether this is the process that checks and prints; works before the processes are connected."""
    return launcher == 'none' or int(os.environ.get(LAUNCHERS[launcher][1][0], 0)) == 0


def prepare_processes(cfg: Config) -> None:
    """Prepare the processes of a run: use our FSDP strategy, choose a port under Slurm, and support CPUs.

    Without a GPU, gloo connects the processes, and :class:`CPUDistributedDataParallel` wraps the model.

    Args:
        cfg: The whole config, with ``launcher``, changed in place.

    Raises:
        ValueError: See :func:`mmtwins.engine.fsdp.check_options`.
    """
    check_options(cfg)
    alone = cfg.get('launcher', 'none') == 'none'
    if uses_fsdp(cfg):
        cfg.strategy = (
            dict(type='SingleDeviceStrategy') if alone else {**cfg.strategy, 'type': TwinsFSDPStrategy.__name__}
        )
        if alone:
            print_log('FSDP spreads a model over several processes; here is one, so the model stays whole', 'current')
    if alone:
        return
    if cfg.launcher == 'slurm':  # jobs that share a machine do not share a port
        number = int(os.environ.get('SLURM_JOB_ID', 0)) + int(os.environ.get('SLURM_STEP_ID', 0))
        os.environ.setdefault('MASTER_PORT', str(20000 + number % 20000))
    if get_device() != 'cpu':
        return
    options = dict(broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False))
    wrapper = dict(type=CPUDistributedDataParallel.__name__, **options)
    if cfg.get('runner_type') != 'FlexibleRunner':
        cfg.model_wrapper_cfg = cfg.get('model_wrapper_cfg') or wrapper
    elif not uses_fsdp(cfg):
        cfg.strategy = {'type': 'DDPStrategy', 'model_wrapper': wrapper, **(cfg.get('strategy') or {})}
    if not is_distributed():
        _connect_by_gloo(cfg)


def _connect_by_gloo(cfg: Config) -> None:
    """Connect the processes as MMEngine's Runner does, but without a GPU for each."""
    env_cfg = cfg.get('env_cfg') or {}
    set_multi_processing(**(env_cfg.get('mp_cfg') or {}), distributed=True)
    os.environ.setdefault('SLURM_LOCALID', '0')  # else MMEngine divides by the number of GPUs
    set_device, torch.cuda.set_device = torch.cuda.set_device, lambda device: None
    try:
        init_dist(cfg.launcher, **{**(env_cfg.get('dist_cfg') or {}), 'backend': 'gloo'})
    finally:
        torch.cuda.set_device = set_device
