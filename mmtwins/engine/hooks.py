"""Hooks that the configs and tools put into MMEngine's Runner."""

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from torch.distributed.fsdp import FullyShardedDataParallel

from ..weights.applying import fit_file
from ..weights.fitting import has_one_backbone
from ..weights.pretrained import names_imagenet
from ..weights.reporting import log_fit
from .fsdp import whole_state_dict
from .reading import count_told


@HOOKS.register_module()
class FitCheckpointHook(Hook):
    """Fit the checkpoint of ``load_from`` or ``resume`` to the model, and log what was made of it.

    ImageNet weights that such a checkpoint replaces are not fetched.
    """

    priority = 'VERY_HIGH'  # before hooks that expect a state dict in what they are given

    def before_run(self, runner: Runner) -> None:
        """Take ``imagenet:`` out of ``init_cfg`` where a checkpoint will give all weights of the backbone."""
        start = runner._load_from
        if runner._resume and start is None and Path(runner.work_dir).is_dir():
            start = find_latest_checkpoint(runner.work_dir)
        if not start:
            return
        for module in runner.model.modules():
            init_cfg = getattr(module, 'init_cfg', None)
            if names_imagenet(init_cfg):
                module.init_cfg = None
            elif isinstance(init_cfg, list):
                module.init_cfg = [entry for entry in init_cfg if not names_imagenet(entry)]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace the weights in ``checkpoint``; raises ValueError as :func:`mmtwins.weights.applying.fit_file`."""
        model = runner.model
        if isinstance(model, FullyShardedDataParallel):
            expected = whole_state_dict(model)
        else:
            while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
                model = model.module
            expected = model.state_dict()
        if not has_one_backbone(expected):
            return  # each backbone checks what it gets
        fit = fit_file(checkpoint, expected)
        if 'state_dict' not in checkpoint:
            checkpoint.clear()
        # The model's own values stand for what is left as it is, so that MMEngine misses nothing.
        checkpoint['state_dict'] = {**expected, **fit.weights}
        log_fit(fit)


@dataclass(frozen=True)
class Batch:
    """Images of a step of the optimizer, and the number that the learning rate of a config is for.

    Args:
        processes: GPUs, or processes on CPUs.
        images: That one process loads for an iteration.
        accumulated: Iterations of gradient accumulation.
        expected: ``auto_scale_lr.base_batch_size``; 0 if the config has none.
        is_scaled: Whether MMEngine scales the learning rate.
    """

    processes: int
    images: int
    accumulated: int
    expected: int
    is_scaled: bool

    @classmethod
    def of(cls, cfg: Config, processes: int) -> 'Batch':
        """That of a config, on so many processes; raises ValueError if ``base_batch_size`` is no number."""
        loader, scaling = cfg.train_dataloader, cfg.get('auto_scale_lr') or {}
        images = loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1
        accumulated, expected = cfg.optim_wrapper.get('accumulative_counts', 1), scaling.get('base_batch_size') or 0
        if not isinstance(expected, int):
            raise ValueError(f'auto_scale_lr.base_batch_size is {expected!r}: write the number of images of a step')
        return cls(processes, images, accumulated, expected, bool(scaling.get('enable')))

    @property
    def total(self) -> int:
        """Images of a step."""
        return self.processes * self.images * self.accumulated

    @property
    def fits(self) -> bool:
        """Whether the learning rate is for this batch, as far as it is known."""
        return self.expected in (0, self.total)


@HOOKS.register_module()
class CheckBatchSizeHook(Hook):
    """Log a warning at the start of training if nothing scales a learning rate that is for another number of images.

    That number is ``auto_scale_lr.base_batch_size`` in the config; what it is compared with is GPUs x images per GPU x
    iterations of gradient accumulation.
    """

    def before_train(self, runner: Runner) -> None:
        batch = Batch.of(runner.cfg, runner.world_size)
        if batch.fits or batch.is_scaled:
            return
        accumulation = f' x {batch.accumulated} accumulated iterations' if batch.accumulated > 1 else ''
        runner.logger.warning(
            f'{batch.processes} GPU(s) x {batch.images} image(s){accumulation} = {batch.total} a step, but the learning rate '
            f'is for {batch.expected} (auto_scale_lr.base_batch_size). Scale it by {batch.total / batch.expected:g}: with '
            '--auto-scale-lr, or with --cfg-options auto_scale_lr.enable=True'
        )


@HOOKS.register_module()
class CountFaultsHook(Hook):
    """Log at the end of a run how many faults of data files it went on with, see :mod:`mmtwins.engine.reading`."""

    def before_run(self, runner: Runner) -> None:
        self._told_before = count_told()

    def after_run(self, runner: Runner) -> None:
        told = count_told() - self._told_before
        if told:
            runner.logger.warning(f'The run went on with {told} fault(s) in data files: see the warnings above')


@HOOKS.register_module()
class ReturnMemoryHook(Hook):
    """Give free memory back to the system after each validation and at some iterations, where the C library is glibc.

    oneDNN keeps the kernels that it compiles for each shape, up to 1,024. They lie between larger blocks that are freed
    again, which glibc then keeps for the process. Giving these back takes some milliseconds.

    Args:
        interval: Of training iterations.
    """

    priority = 'LOWEST'

    def __init__(self, interval: int = 500) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            return_memory()

    def after_val(self, runner: Runner) -> None:
        return_memory()


def return_memory() -> None:
    """Give free memory of this process back to the system; does nothing without glibc."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
