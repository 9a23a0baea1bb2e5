"""MMEngine's training loops, continued after a checkpoint without loading what was seen before it."""

from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from ..models.threads import kept_threads
from .batches import place_batches
from .random_states import kept_random_states


class ResumableLoop(BaseLoop):
    """What both loops have: the place in the data, and the number of threads."""

    endless = False  # whether the whole run is one epoch
    _iter: int

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        # Built before MMEngine's loop makes an iterator, whose workers would begin to load.
        differ = runner._randomness_cfg.get('diff_rank_seed', False)
        loader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=differ)
        self.batches = place_batches(loader, self.endless)
        self.start = 0  # the iteration of batch 0: of the whole run, or of the epoch
        self._done = 0  # batches that a checkpoint has seen
        self._must_validate = False
        super().__init__(runner, loader, *args, **kwargs)
        for name in ('max_iters', 'max_epochs', 'val_interval'):
            if getattr(self, name, 1) < 1:
                raise ValueError(f'train_cfg.{name}={getattr(self, name)}: give a number of 1 or more')

    def run(self) -> Any:
        """Train, with as many threads throughout."""
        with kept_threads():
            return super().run()

    def resume(self, batches: int, validate: bool = False) -> None:
        """Say what a checkpoint has seen; the loop's iteration and epoch are set already.

        Args:
            batches: How many batches; of the run if it is endless, else of the epoch.
            validate: Whether to validate before the first iteration.
        """
        self._done = batches if self.endless else min(max(batches, 0), len(self.dataloader))
        self._must_validate = validate

    def _place_batches(self) -> None:
        """Before the data loader is iterated: begin behind what the checkpoint has seen."""
        self.start = self._iter - self._done
        if self.batches is not None:
            self.batches.place(self.runner.seed, skip=self._done, first=self._iter)
        self._done = 0

    def _validate_as_before(self) -> None:
        if self._must_validate and self.runner.val_loop is not None:
            self.runner.val_loop.run()
        self._must_validate = False


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(ResumableLoop, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that passes over batches which a checkpoint has seen, instead of loading them."""

    endless = True

    @kept_threads()
    def run(self) -> Any:
        """Train to the last iteration, with validations in between."""
        if self.batches is None:
            return super().run()
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self._place_batches()
        self.dataloader_iterator = iter(self.dataloader)
        self._validate_as_before()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self.runner.val_loop is not None and self.is_validated():
                self.runner.val_loop.run()
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model

    def is_validated(self) -> bool:
        """Whether a validation follows the iterations that are done."""
        done = self._iter
        return done >= self.val_begin and (done % self.val_interval == 0 or done == self._max_iters)


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(ResumableLoop, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that also continues inside an epoch."""

    def run_epoch(self) -> None:
        """Train to the end of the epoch."""
        self._validate_as_before()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first = self._done
        self._place_batches()
        for index, batch in enumerate(self.dataloader, first):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.start = self._iter

    def is_validated(self) -> bool:
        """Whether a validation follows the epochs that are done."""
        done = self._epoch
        return done >= self.val_begin and (done % self.val_interval == 0 or done == self._max_epochs)


RESUMABLE = {IterBasedTrainLoop: ResumableIterBasedTrainLoop, EpochBasedTrainLoop: ResumableEpochBasedTrainLoop}


def name_resumable_loop(runner: Runner) -> None:
    """Let a Runner build the resumable form of the training loop that its config names, if it is one of MMEngine's."""
    loop = runner._train_loop
    if not isinstance(loop, dict):
        return
    kinds = {kind.__name__: kind for kind in RESUMABLE}
    if 'type' in loop:
        kind = kinds.get(str(loop['type']).removeprefix('mmengine.'), loop['type'])
    else:
        kind = EpochBasedTrainLoop if loop.get('by_epoch') else IterBasedTrainLoop
    if kind in RESUMABLE:
        options = {key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}
        runner._train_loop = dict(type=RESUMABLE[kind], **options)


def replace_loop(runner: Runner) -> None:
    """Replace a loop of MMEngine that a Runner has built already, before it runs, by its resumable form.

    Workers may have begun to load, so it gets another data loader, with a sampler that is as new. The data set stays.
    """
    old = runner.train_loop
    loader = runner.cfg.get('train_dataloader')
    if type(old) not in RESUMABLE or not isinstance(loader, dict) or not isinstance(runner.cfg.get('train_cfg'), dict):
        return
    # num_batch_per_epoch has cut the data set already.
    loader = {key: value for key, value in loader.items() if key != 'num_batch_per_epoch'}
    options = {key: value for key, value in runner.cfg.train_cfg.items() if key not in ('type', 'by_epoch')}
    loader['dataset'] = _NotCopied(old.dataloader.dataset)
    with kept_random_states():  # the weights are initialised next
        runner._train_loop = RESUMABLE[type(old)](runner, loader, **options)
    runner._train_loop._iter, runner._train_loop._epoch = old.iter, old.epoch


class _NotCopied:
    """What copy.deepcopy is to hand on as it is: Runner.build_dataloader copies the config that it gets."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __deepcopy__(self, memo: dict) -> Any:
        return self._value
