"""Report curves, pictures and config of a training to TensorBoard or Weights & Biases, as one run even if it is resumed."""

import importlib.util
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.visualization import TensorboardVisBackend, WandbVisBackend

from ..installing import how_to_install
from .building import ConfigError

TRACKERS = ('tensorboard', 'wandb')
RUN_ID = 'wandb/run_id'  # in the work directory


def track(runner: Runner, names: Sequence[str]) -> None:
    """Let a training report to trackers.

    Args:
        runner: Runner of the training, before it starts.
        names: Names of trackers, out of :data:`TRACKERS`.

    Raises:
        ValueError: There is no such tracker.
        ImportError: A tracker is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f'--track {name}: give {" or ".join(TRACKERS)}')
        if importlib.util.find_spec(name) is None:
            raise ImportError(f'--track {name} needs the package {name}: {how_to_install("tracking")}')
    if names and is_main_process():
        runner.register_hook(TrackingHook(list(dict.fromkeys(names))))


class TrackingHook(Hook):
    """Adds trackers to the visualizer when the training starts and its first iteration is known.

    Args:
        names: Names of trackers, out of :data:`TRACKERS`.
    """

    priority = 'VERY_HIGH'

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def before_train(self, runner: Runner) -> None:
        """Start the trackers, and give them the config; raises ConfigError if one does not start."""
        kinds: dict[str, Any] = dict(tensorboard=ResumedTensorboard, wandb=ResumedWandb)
        for name in self.names:
            backend = kinds[name](runner.work_dir, runner.iter)
            try:
                backend.add_config(runner.cfg)
            except Exception as error:  # from the tracker's library, for example about a login
                raise ConfigError(f'--track {name}: {error}') from error
            runner.visualizer._vis_backends[kinds[name].__name__] = backend
            runner.logger.info(backend.how_to_look())


class _Places:
    """Puts all numbers of a training on one axis, its iterations.

    Args:
        start: Iterations that are done.
    """

    def __init__(self, start: int) -> None:
        self.last = start

    def place(self, scalars: dict, step: int) -> int:
        """The iteration of a record; in a training that counts in epochs, validations come with their epoch instead."""
        if 'loss' not in scalars:
            return max(step, self.last)
        self.last = step
        return step


class _Safely:
    """Calls a tracker so that it never ends a training: the first failure is logged, and nothing is called after it.

    Args:
        name: Name of the tracker, for the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_failed = False

    def __call__(self, act: Callable[[], None]) -> None:
        """Call a function unless an earlier one has failed."""
        if self.has_failed:
            return
        try:
            act()
        except Exception as error:
            self.has_failed = True
            print_log(f'{self.name} gets nothing more of this training ({error}); the training goes on', 'current', 30)


class ResumedTensorboard(TensorboardVisBackend):
    """Writes to the folder ``tensorboard`` of the work directory; a resumed training hides records of iterations that it repeats.

    Args:
        work_dir: Work directory.
        start: Number of iterations that are done.
    """

    def __init__(self, work_dir: str, start: int) -> None:
        super().__init__(str(Path(work_dir, 'tensorboard')))
        self.start = start
        self._places = _Places(start)
        self._safely = _Safely('TensorBoard')

    def how_to_look(self) -> str:
        """The command that shows the run."""
        return f'TensorBoard: tensorboard --logdir {self._save_dir}'

    def _init_env(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Records that an earlier run wrote of later iterations are hidden.
        self._tensorboard = SummaryWriter(self._save_dir, purge_step=self.start + 1)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Write the config as text."""
        self.experiment.add_text('config', f'```python\n{config.pretty_text}\n```', global_step=self.start + 1)
        self.experiment.flush()

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Write numbers of an iteration."""
        step = self._places.place(scalar_dict, step)

        def write() -> None:
            super(ResumedTensorboard, self).add_scalars(scalar_dict, step)
            self.experiment.flush()

        self._safely(write)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write a picture, (H, W, 3) RGB uint8."""
        self._safely(lambda: super(ResumedTensorboard, self).add_image(name, image, step))

    def close(self) -> None:
        """Write what is left."""
        self._safely(super().close)


class ResumedWandb(WandbVisBackend):
    """Reports to Weights & Biases; a resumed training continues its run. The run has the name of the work directory.

    Args:
        work_dir: Work directory.
        start: Number of iterations that are done; 0 starts a new run.
    """

    def __init__(self, work_dir: str, start: int) -> None:
        file = Path(work_dir, RUN_ID)
        if not (start and file.is_file()):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(secrets.token_hex(4))
        settings = dict(
            project='mmtwins', name=Path(work_dir).resolve().name, id=file.read_text().strip(), resume='allow'
        )
        axis = [dict(name='*', step_metric='iteration')]
        super().__init__(str(work_dir), init_kwargs=settings, define_metric_cfg=axis)
        self._places = _Places(start)
        self._safely = _Safely('Weights & Biases')

    def how_to_look(self) -> str:
        """Where the run is."""
        return f'Weights & Biases: {getattr(self.experiment.run, "url", None) or "offline, in " + self._save_dir}'

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Report the config; unlike MMEngine's, without the code in the current folder."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """Report numbers of an iteration."""
        iteration = self._places.place(scalar_dict, step)
        self._safely(lambda: self.experiment.log({**scalar_dict, 'iteration': iteration}))

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Report a number of an iteration."""
        self.add_scalars({name: value}, step)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Report a picture, (H, W, 3) RGB uint8."""
        self._safely(lambda: self.experiment.log({name: self.experiment.Image(image), 'iteration': step}))

    def close(self) -> None:
        """End the run."""
        self._safely(lambda: self.experiment.finish())
