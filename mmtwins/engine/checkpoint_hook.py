"""Checkpoints that a kill, a full disk or a loss of power cannot spoil: MMEngine's hook with another order of events."""

import hashlib
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from ..weights.saving import first_not_finite, remove_partial_files, serialise, write_whole
from .divergence import StopOnDivergenceHook
from .ending import end_with_error
from .fsdp import own_part
from .saving_together import saving_together
from .work_dir import find_missing_state, find_newest_checkpoint, lock_work_dir

TO_REMOVE = 'outdated_ckpts'  # in the message hub, so also in the checkpoint that makes them outdated


@register_backend('whole-files', force=True)
class WholeFileBackend(LocalBackend):
    """The local disk of MMEngine, on which a file is whole or not there."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file; raises OSError as :func:`mmtwins.weights.saving.write_whole`."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, obj)


class _RemovesLater:
    """A file backend that only notes what it is to remove."""

    def __init__(self, backend: Any, note: Callable[[str], None]) -> None:
        self._backend = backend
        self.remove = self.rmtree = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, with the same options, that leaves a whole checkpoint at any moment.

    A checkpoint is written beside the others, read back and only then named. Next comes the pointer ``last_checkpoint``,
    and last the removal of old ones. This holds for ``save_best`` and ``published_keys`` too. Weights that are not finite
    are not saved. What was there before an error stays, and the error ends the run with one sentence.

    ``resume=True`` without ``load_from`` takes the newest whole checkpoint. One training at a time writes to a work
    directory. On other file systems than the local one (``backend_args``) the order holds, and the rest is theirs.
    """

    backend_args: dict | None
    file_backend: Any
    best_ckpt_path: str | None
    _saved_iter = -1  # iterations that the newest checkpoint has seen
    _refused = ''  # why the last checkpoint was not written
    _refused_since = 0  # the first iteration of which none was written for that reason

    def __init__(self, interval: int = -1, **kwargs: Any) -> None:
        super().__init__(interval, **kwargs)
        if not isinstance(interval, int):
            raise ValueError(f'the interval of checkpoints is {interval!r}: give a number of iterations or epochs')
        for name in self.args:  # MMEngine would find out at the first checkpoint
            raise TypeError(f"SafeCheckpointHook.__init__() got an unexpected keyword argument '{name}'")

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume, if the config asks for one without a name."""
        if not runner._resume or runner._load_from is not None:
            return
        chosen: list[str | None] = [None]
        if is_main_process():
            newest = find_newest_checkpoint(Path(runner.work_dir), self.out_dir, self.filename_tmpl)
            for note in newest.notes:
                runner.logger.warning(note)
            chosen = [newest.path]
        broadcast_object_list(chosen)
        runner._load_from = chosen[0]
        runner._resume = chosen[0] is not None

    def before_train(self, runner: Runner) -> None:
        """Take hold of the work directory, and tidy up what an earlier process has left."""
        self._release = lambda: None
        problem = ['']
        if is_main_process():
            try:
                self._release = lock_work_dir(runner.work_dir)
            except ValueError as error:
                problem = [str(error)]
        broadcast_object_list(problem)
        if problem[0]:
            end_with_error(runner, problem[0])
        for handler in runner.logger.handlers:  # a full disk would print a traceback for each line of the log
            setattr(handler, 'handleError', lambda record: None)  # noqa: B010  # mypy refuses a method
        folder = self.out_dir or runner.work_dir
        is_local = type(get_file_backend(folder, backend_args=self.backend_args)) is LocalBackend
        if self.file_client_args is None and is_local:
            self.backend_args = dict(backend='whole-files')
        kept = runner.message_hub.get_info('keep_ckpt_ids', [])
        # MMEngine deletes checkpoints that are named after these.
        if not (isinstance(kept, list) and all(isinstance(step, int) for step in kept)):
            runner.message_hub.update_info('keep_ckpt_ids', [])
        super().before_train(runner)
        if is_main_process() and is_local:
            try:
                Path(self.out_dir).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                end_with_error(runner, f'no folder {self.out_dir} can be made for checkpoints: {error.strerror}')
        self._storage = self.file_backend
        self._look_for_best_here()
        if is_main_process() and is_local:
            remove_partial_files(Path(self.out_dir))
        name = os.path.basename(runner.message_hub.get_info('last_ckpt', ''))
        path = self._storage.join_path(self.out_dir, name)
        if runner.iter and name and self._storage.exists(path):  # resumed from a checkpoint of this folder
            self.last_ckpt, self._saved_iter = path, runner.iter
            self._remove_outdated(runner, name)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to resume from what is no state of a training, or one of another model."""
        if not runner._resume:
            return
        problem = find_missing_state(checkpoint) or _find_other_optimizer(runner, checkpoint)
        if problem:
            end_with_error(runner, f'{runner._load_from}: {problem}. To start from its weights, name it in load_from')

    def _look_for_best_here(self) -> None:
        """Point at the best checkpoints in this folder, which may be a copy of that of the original run."""

        def here(path: str | None) -> str | None:
            return path and self.file_backend.join_path(self.out_dir, os.path.basename(path))

        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = here(self.best_ckpt_path)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = here(path)

    def after_train(self, runner: Runner) -> None:
        """Publish the checkpoint, and let go of the work directory."""
        if self._refused:
            end_with_error(runner, self._refused)
        super().after_train(runner)
        self._release()

    def save_now(self, runner: Runner, epoch: int, iteration: int) -> str | None:
        """Write a checkpoint off schedule, which the next on schedule replaces.

        Args:
            runner: Of the run.
            epoch: Epochs that are complete.
            iteration: Iterations that are complete.

        Returns:
            Path of the newest checkpoint; an older one, or None, if the weights are not finite.
        """
        if not self.has_saved(iteration) and self._may_save(runner, iteration):
            name = f'iter_{iteration}.pth' if self.by_epoch else self.filename_tmpl.format(iteration)
            self._remove_later(runner, name)
            self._write(runner, name, dict(epoch=epoch, iter=iteration))
        return self.last_ckpt

    def has_saved(self, iteration: int) -> bool:
        """Whether the newest checkpoint has seen so many iterations."""
        return self._saved_iter == iteration

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """As MMEngine's, but what is outdated is removed last."""
        if not self._may_save(runner, meta['iter']):
            return
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._remove_later(runner, self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self._write(runner, name, meta)
        self._remove_outdated(runner, name)

    def _write(self, runner: Runner, name: str, meta: dict) -> None:
        """Write a checkpoint, then the pointer to it."""
        newest, self.last_ckpt = self.last_ckpt, self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        try:
            with saving_together(runner, self.backend_args):
                runner.save_checkpoint(
                    self.out_dir,
                    name,
                    self.file_client_args,
                    save_optimizer=self.save_optimizer,
                    save_param_scheduler=self.save_param_scheduler,
                    meta=meta,
                    by_epoch=self.by_epoch,
                    backend_args=self.backend_args,
                    **self.args,
                )
            newest = self.last_ckpt
            if is_main_process():
                write_whole(Path(runner.work_dir) / 'last_checkpoint', str(self.last_ckpt).encode())
        except OSError as error:
            self._end_without_room(runner, error, newest)
        self._saved_iter = meta['iter']

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """As MMEngine's, but the best one so far is removed last."""
        if not self.save_best or not self._may_save(runner, runner.iter):
            return
        missing = [key for key in self.save_best if key != 'auto' and key not in metrics]
        if missing:
            end_with_error(
                runner, f'save_best={missing[0]}: the validation gives {", ".join(metrics)}; name one of them'
            )
        note = lambda path: self._remove_later(runner, os.path.basename(path))  # noqa: E731
        self.file_backend = _RemovesLater(self._storage, note)
        try:
            with saving_together(runner, self.backend_args):
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            self._end_without_room(runner, error, self.last_ckpt)
        finally:
            self.file_backend = self._storage
        self._remove_outdated(runner)

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Write a checkpoint with the published keys alone; its name tells its content, as MMEngine's does."""
        checkpoint = CheckpointLoader.load_checkpoint(ckpt_path, map_location='cpu')
        published = {key: value for key, value in checkpoint.items() if key in (self.published_keys or ())}
        digest = hashlib.sha256(pickle.dumps(published)).hexdigest()[:8]
        path = f'{os.path.splitext(ckpt_path)[0]}-{digest}.pth'
        try:
            self.file_backend.put(serialise(published), path)
        except OSError as error:
            self._end_without_room(runner, error, self.last_ckpt)
        runner.logger.info(f'The checkpoint ({ckpt_path}) is published to {path}.')

    def _may_save(self, runner: Runner, iteration: int) -> bool:
        """Whether all numbers are finite, those of all processes; a warning if not."""
        name = None
        is_spread = isinstance(runner.model, FullyShardedDataParallel)
        if is_main_process() or is_spread:  # else it does not write
            weights = own_part(runner.model) if is_spread else runner.model.state_dict()
            averages = {
                f'ema_{i}': h.ema_model.state_dict() for i, h in enumerate(runner.hooks) if isinstance(h, EMAHook)
            }
            optimizer = runner.optim_wrapper.state_dict() if self.save_optimizer else {}
            name = first_not_finite({**weights, **averages, 'optimizer': optimizer})
        name = next(filter(None, all_gather_object(name)), None)
        self._refused = ''
        if name:
            newest = f'{self.last_ckpt} stays the newest' if self.last_ckpt else 'there is none yet'
            self._refused = (
                f'no checkpoint is written after iteration {iteration}, because {name} holds numbers that are not finite: '
                f'{newest}'
            )
            self._end_if_refused_before(runner, iteration)
            runner.logger.warning(self._refused)
        self._refused_since = (self._refused_since or iteration) if name else 0
        return not name

    def _end_if_refused_before(self, runner: Runner, iteration: int) -> None:
        """Do not go on without checkpoints: what is not finite stays so. A loss that is not finite says more by itself."""
        is_diverging = any(isinstance(hook, StopOnDivergenceHook) and hook.is_counting for hook in runner.hooks)
        if self._refused_since and iteration > self._refused_since and not is_diverging:
            since = f'nor was one after iteration {self._refused_since}'
            end_with_error(runner, f'{self._refused}, {since}. Start again with a lower learning rate, or --resume')

    def _end_without_room(self, runner: Runner, error: OSError, newest: str | None) -> None:
        kept = f'{newest} stays, and --resume continues from it' if newest else 'no checkpoint was written before'
        end_with_error(runner, f'{error}. Make room, then start again: {kept}')

    def _remove_later(self, runner: Runner, name: str) -> None:
        names = runner.message_hub.get_info(TO_REMOVE, [])
        runner.message_hub.update_info(TO_REMOVE, [*names, name])

    def _is_own(self, name: object) -> bool:
        """Whether a name is one that this hook gives to checkpoints."""
        own = re.sub(r'\\\{[^{}]*\\\}', r'\\d+', re.escape(self.filename_tmpl))
        return isinstance(name, str) and re.fullmatch(rf'{own}|(iter|epoch)_\d+(\.pth)?|best_[^/\\]*', name) is not None

    def _remove_outdated(self, runner: Runner, newest: str = '') -> None:
        """Remove what the checkpoint that was written last has made outdated, but not that one."""
        names = runner.message_hub.get_info(TO_REMOVE, [])
        runner.message_hub.update_info(TO_REMOVE, [name for name in names if name == newest])
        for name in filter(self._is_own, names):  # a checkpoint from elsewhere may name any file
            path = self._storage.join_path(self.out_dir, name)
            if name == newest or not is_main_process():
                continue
            if self._storage.isfile(path):
                self._storage.remove(path)
            elif self._storage.isdir(path):
                self._storage.rmtree(path)


def _find_other_optimizer(runner: Runner, checkpoint: dict) -> str | None:
    """How an optimizer in a checkpoint differs from that of the run, in words."""
    own, given = getattr(runner.optim_wrapper, 'optimizer', None), checkpoint.get('optimizer')
    if own is None or given is None:
        return None
    sizes = [[len(group['params']) for group in groups] for groups in (given['param_groups'], own.param_groups)]
    if sizes[0] == sizes[1]:
        return None
    counts = [f'{sum(counts)} weights in {len(counts)} groups' for counts in sizes]
    return f'its optimizer is of another model: {counts[0]} instead of {counts[1]}'
