"""Try a training: one iteration and one batch of the validation, without writing anything."""

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from .divergence import iter_files, loss_of
from .ending import end_with_error
from .stopping import StopOnSignalHook


@contextmanager
def dry_work_dir(cfg: Config) -> Iterator[None]:
    """Give a config a temporary work directory inside a ``with`` block, and a visualizer that reports to no service.

    Args:
        cfg: The whole config, changed in place.
    """
    folder = Path(tempfile.mkdtemp(prefix='dry-run-'))
    cfg.work_dir = str(folder)
    visualizer = cfg.get('visualizer')
    if isinstance(visualizer, Mapping) and visualizer.get('vis_backends'):
        cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    try:
        yield
    finally:
        if not any(folder.rglob('traceback.txt')):  # an error message has named this file
            shutil.rmtree(folder, ignore_errors=True)


def prepare_dry_run(runner: Runner) -> None:
    """Let a Runner end after one iteration and one batch of the validation, and write no checkpoint.

    Args:
        runner: Not yet started.
    """
    muted = [_OnlyLoads(hook) if isinstance(hook, CheckpointHook) else hook for hook in runner.hooks]
    runner._hooks = [hook for hook in muted if not isinstance(hook, StopOnSignalHook)]
    runner.register_hook(DryRunHook([hook for hook in runner.hooks if isinstance(hook, _OnlyLoads)]))


class _OnlyLoads(Hook):
    """Replaces a hook that writes checkpoints: looks at the checkpoint that is loaded, as that hook does, and writes none."""

    def __init__(self, hook: CheckpointHook) -> None:
        self.priority = hook.priority
        self.before_run = hook.before_run
        self.after_load_checkpoint = hook.after_load_checkpoint
        self.save_best: list[str] = hook.save_best or []


class _FirstBatch:
    """A data loader that stops after its first batch."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch
            return

    def __len__(self) -> int:
        return 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class DryRunHook(Hook):
    """Ends the program with exit code 0 after the first iteration and one batch of the validation.

    Args:
        savers: The replacements of hooks that write checkpoints.
    """

    priority = 'LOWEST'  # all other hooks get the iteration, too

    def __init__(self, savers: list[_OnlyLoads]) -> None:
        self.savers = savers
        self._started = 0.0

    def before_train(self, runner: Runner) -> None:
        """Shorten the validation, which a resumed run may begin with."""
        if runner.val_loop is not None:
            runner.val_loop.dataloader = _FirstBatch(runner.val_loop.dataloader)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check the loss, validate, and end the program."""
        loss = float(loss_of(outputs or {}).detach().flatten()[0])
        seconds = time.perf_counter() - self._started
        for other, files in all_gather_object((loss, list(iter_files(data_batch)))):
            if not math.isfinite(other):
                end_with_error(runner, f'the loss of the first iteration is {other}; its batch: {", ".join(files)}')
        done = [f'a training iteration of {seconds:.1f} s (loss {loss:.4g})']
        if runner.val_loop is None:
            done.append('no validation, the config has none')
        else:
            self._check_best(runner, runner.val_loop.run() or {})
            done.append('a batch of the validation')
        if torch.cuda.is_available():
            done.append(f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of GPU memory at most')
        if is_main_process():
            runner.logger.info(f'Dry run: {", ".join(done)}. Nothing is written; without --dry-run the training starts')
        barrier()  # otherwise the launcher ends processes that are not done
        raise SystemExit(0)

    def after_train(self, runner: Runner) -> None:
        """Log that nothing was left to try."""
        if is_main_process():
            runner.logger.info(
                f'Dry run: nothing is left to train, iteration {runner.iter:,} of {runner.max_iters:,} is done'
            )

    def _check_best(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        """Check that the validation gives the metric of ``save_best``; MMEngine looks it up after the first validation."""
        for saver in self.savers:
            missing = [name for name in saver.save_best if name != 'auto' and name not in metrics]
            if missing and metrics:
                end_with_error(
                    runner,
                    f'default_hooks.checkpoint.save_best is {missing[0]!r}, which the validation does not measure: take '
                    f'{", ".join(metrics)}',
                )
