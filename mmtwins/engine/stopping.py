"""Stop a training in good order when a batch system, or a person, asks for it by a signal."""

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from .checkpoint_hook import SafeCheckpointHook
from .ending import INTERRUPTED, INTERRUPTED_BY_USER, end_together

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SAME_EVENT = 0.2  # seconds; `timeout` and others send a signal to the process and to its group
_training: int | None = None  # id of the process that handles the signals


@HOOKS.register_module()
class StopOnSignalHook(Hook):
    """Finish the iteration on SIGTERM, SIGINT (Ctrl-C) or SIGUSR1, write a checkpoint and end the run.

    The exit code is 75 after SIGTERM and SIGUSR1, 130 after SIGINT. A second signal ends the process at once. Of several
    processes, all stop at the same iteration if one gets a signal. A validation ends behind its current batch; if the
    iteration before it is not saved, or there are several processes, it is completed and one more iteration done.
    """

    priority = 'LOWEST'  # after the checkpoint that may be due

    def __init__(self) -> None:
        self._received = 0
        self._received_at = 0.0
        self._previous: dict[int, Any] = {}
        self._waiting_at: tuple[int, int] | None = None  # epochs and iterations done, while the next batch is awaited

    def before_train(self, runner: Runner) -> None:
        """Begin to listen."""
        global _training
        if threading.current_thread() is not threading.main_thread():
            return  # where Python lets nobody listen
        _training, self._runner, self._received, self._waiting_at = os.getpid(), runner, 0, None
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup asks to go on
                self._previous[number] = signal.signal(number, self._receive)

    def after_train(self, runner: Runner) -> None:
        """Cease to listen."""
        global _training
        _training = None
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            if time.monotonic() - self._received_at > SAME_EVENT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._received, self._received_at = number, time.monotonic()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch would raise an error if SIGTERM ends its workers too
        if self._runner.rank == 0:  # not by print, which this may have interrupted
            name = signal.Signals(number).name
            os.write(2, f'\n{name}: saving a checkpoint after this iteration; a second signal ends at once\n'.encode())
        if self._waiting_at and self._runner.world_size == 1:  # for workers that the signal may have ended
            self._stop_if_asked(self._runner, *self._waiting_at)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note that weights are about to change."""
        self._waiting_at = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Stop if asked to, unless the gradients of this iteration wait for the next, or the epoch ends with it."""
        has_epochs = isinstance(runner.train_loop, EpochBasedTrainLoop)
        ends_epoch = has_epochs and batch_idx + 1 == len(runner.train_dataloader)
        if not ends_epoch and getattr(runner.optim_wrapper, 'should_update', lambda: True)():
            self._stop_if_asked(runner, runner.epoch, runner.iter + 1)
            if runner.iter + 1 < runner.max_iters:
                self._waiting_at = (runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop between two epochs if asked to."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._stop_if_asked(runner, runner.epoch + 1, runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Note that a validation begins."""
        self._waiting_at = None

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Stop inside a validation if asked to, where nothing is left to save and nobody to agree with."""
        if self._received and runner.world_size == 1:
            saver = _find_checkpoint_hook(runner)
            if saver is None or saver.has_saved(runner.iter):
                self._stop_if_asked(runner, runner.epoch, runner.iter)

    def _stop_if_asked(self, runner: Runner, epoch: int, iteration: int) -> None:
        """Write a checkpoint and end, if a process has received a signal."""
        number = self._agree(runner)
        if not number:
            return
        saver = _find_checkpoint_hook(runner)
        path = saver.save_now(runner, epoch, iteration) if saver else None
        runner.logger.info(
            f'Stopped by {signal.Signals(number).name} after iteration {iteration}. '
            + (f'{path} is written; the same command with --resume continues' if path else 'Nothing is saved')
        )
        self.after_train(runner)
        end_together(runner, INTERRUPTED_BY_USER if number == signal.SIGINT else INTERRUPTED)

    def _agree(self, runner: Runner) -> int:
        """The signal that this or another process has received, 0 without one."""
        if runner.world_size == 1:
            return self._received
        received = torch.tensor(self._received)
        all_reduce(received, 'max')
        return int(received)


def _find_checkpoint_hook(runner: Runner) -> SafeCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)


def _leave_signals_to_training() -> None:
    """In a worker that is forked while this process trains: a signal to the whole group must not end it first.

    PyTorch's DataLoader lets SIGTERM end a worker whatever Python says.
    """
    if _training == os.getppid():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        sys.excepthook = _report_unless_training_has_gone


def _report_unless_training_has_gone(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


os.register_at_fork(after_in_child=_leave_signals_to_training)
