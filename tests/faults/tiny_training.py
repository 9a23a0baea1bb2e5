"""A training of seconds, in processes that are forked from one where everything is imported, to be killed at any moment."""

import io
import mmap
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot  # noqa: F401  # what a Runner imports when it is built, so that forked processes have it
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import Tensor, nn

from mmtwins.engine.arguments import readable_errors
from mmtwins.engine.runner import build_runner
from mmtwins.engine.work_dir import locked_work_dir, resume_if_possible
from mmtwins.weights.opening import read_file

ITERATIONS = 40
INTERVAL = 4
VALIDATION: dict[str, Any] = {  # of the config
    'val_dataloader.batch_size': 1,
    'val_dataloader.num_workers': 0,
    'val_dataloader.sampler': dict(type='DefaultSampler', shuffle=False),
    'val_dataloader.dataset': dict(type='FixedNumbers'),
    'val_dataloader.collate_fn': dict(type='default_collate'),
    'val_cfg': dict(),
    'val_evaluator.type': 'MeanError',
}
progress = mmap.mmap(-1, 4)  # iterations done by the training that runs, also seen by the process that has forked it


@DATASETS.register_module()
class FixedNumbers(torch.utils.data.Dataset):
    """Numbers that follow from the index alone.

    Args:
        delay: Seconds that a sample takes to load.
    """

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(self.delay)
        numbers = torch.linspace(-1, 1, 8) * (index + 1) / 24
        return dict(inputs=numbers.sin(), target=numbers.sum().cos(), img_path=f'{index}.png')


@MODELS.register_module()
class TwoLayers(BaseModel):
    """Two layers and a batch norm, without random numbers after the first weights.

    Args:
        delay: Seconds that an iteration takes.
        spoilt_at: Iteration from which on the loss is not finite.
    """

    def __init__(self, delay: float = 0, spoilt_at: int = -1) -> None:
        super().__init__()
        self.delay = delay
        self.spoilt_at = spoilt_at
        self.calls = 0
        self.layers = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 1))

    def forward(self, inputs: Tensor, target: Tensor, mode: str = 'tensor', **_: Any) -> Any:
        time.sleep(self.delay)
        error = self.layers(inputs).flatten() - target
        self.calls += mode == 'loss'
        if mode == 'loss' and 0 < self.spoilt_at <= self.calls:
            error = error * float('inf')
        return dict(loss=(error**2).mean()) if mode == 'loss' else list(error.abs())


@METRICS.register_module()
class MeanError(BaseMetric):
    """The error of the model."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [float(sample) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(loss=sum(results) / len(results))


@HOOKS.register_module()
class TellProgressHook(Hook):
    """Tells the process that has forked this one how many iterations are done, before a checkpoint is written."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        progress[:] = (runner.iter + 1).to_bytes(4, 'little')


def iterations_done() -> int:
    """How many iterations the training has done."""
    return int.from_bytes(progress[:], 'little')


def make_config(work_dir: Path, **options: Any) -> Config:
    """Forty iterations with a checkpoint at every fourth, of which one is kept.

    Args:
        work_dir: Where to write.
        options: Values of the config by dotted name.
    """
    cfg = Config(
        dict(
            model=dict(type='TwoLayers'),
            work_dir=str(work_dir),
            launcher='none',
            experiment_name=f'{work_dir}_{os.getpid()}_{time.time()}',  # MMEngine's loggers are found by it
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='InfiniteSampler', shuffle=True),
                dataset=dict(type='FixedNumbers'),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=False, max_iters=ITERATIONS),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
            param_scheduler=[dict(type='PolyLR', eta_min=1e-4, end=ITERATIONS + 1, by_epoch=False)],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=INTERVAL, max_keep_ckpts=1)
            ),
            custom_hooks=[dict(type='TellProgressHook')],
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=5),
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def train(cfg: Config) -> None:
    """Train as ``tools/train.py --resume`` does."""
    progress[:] = bytes(4)
    with locked_work_dir(cfg.work_dir) if cfg.launcher == 'none' else nullcontext():
        notes = resume_if_possible(cfg)
        runner = build_runner(cfg, notes=notes)
        with readable_errors(OSError, hint='The same command with --resume continues from the newest checkpoint.'):
            runner.train()


def slow_down(seconds: float) -> None:
    """Let everything that a checkpoint does to the disk take time in this process, as on a slow file system."""
    write, replace, unlink, fsync = os.write, os.replace, os.unlink, os.fsync

    def slowly(function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return function(*args, **kwargs)

        return call

    def write_slowly(descriptor: int, content: Any) -> int:
        time.sleep(seconds)
        return write(descriptor, content[: 1 + len(content) // 2])

    os.write, os.replace, os.unlink, os.fsync = write_slowly, slowly(replace), slowly(unlink), slowly(fsync)
    os.remove = slowly(unlink)


def start(work: Callable[[], None], log: Path) -> int:
    """Do something in a forked process of its own group.

    Args:
        work: What to do. The exit code of the process is 1 after an error.
        log: File that its output is added to.

    Returns:
        Id of the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        with suppress(OSError):  # it has done so itself
            os.setpgid(process, process)
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open('ab', buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(fd, 'w', closefd=False)) for fd in (1, 2))
        torch.set_num_threads(1)
        with mock.patch('mmengine.runner.runner.collect_env', dict):  # takes longer than the training
            work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(process: int, seconds: float = 60) -> int:
    """Wait for a process; returns its exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise TimeoutError(f'process {process} did not end in {seconds} s')
        time.sleep(0.002)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds."""
    return read_file(path)


def count_differences(given: Path, expected: Path) -> int:
    """How many tensors differ between two checkpoints, in weights and optimizer."""
    first, second = (read_checkpoint(path) for path in (given, expected))
    tensors = [
        (one, two)
        for a, b in (
            (first['state_dict'], second['state_dict']),
            *((a, b) for a, b in zip(first['optimizer']['state'].values(), second['optimizer']['state'].values())),
        )
        for one, two in zip(a.values(), b.values())
    ]
    assert len(tensors) > 20
    return sum(not torch.equal(one, two) for one, two in tensors)
