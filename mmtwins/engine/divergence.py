"""Stop a training whose loss is no number any more, and say what led to it."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from .ending import end_with_error
from .fsdp import own_name

NUM_FILES = 16  # named in the message
NUM_GRADIENTS = 5


@dataclass(eq=False)
class Step:
    """Norms of the gradients of one update, before it.

    Args:
        iteration: Its number, from 1.
        parameters: Those that had a gradient, in the optimizer's order.
        norms: One per parameter, on the device.
        files: Of the batch on this process.
    """

    iteration: int
    parameters: list[Tensor]
    norms: Tensor
    files: list[str]

    def is_of(self, iteration: int, parameters: list[Tensor]) -> bool:
        """Whether this is the update of these parameters at an iteration."""
        return self.iteration == iteration and self.parameters[0] is parameters[0]


@HOOKS.register_module()
class StopOnDivergenceHook(Hook):
    """End a run whose loss was not finite for some iterations in a row.

    The message names the first of these iterations, the files of its batch, the largest gradients before it and the
    newest checkpoint. No checkpoint of such weights is written, see
    :class:`mmtwins.engine.checkpoint_hook.SafeCheckpointHook`.

    Args:
        patience: Number of iterations.
    """

    priority = 'LOW'  # after the loss is logged, before checkpoints

    def __init__(self, patience: int = 10) -> None:
        if patience < 1:
            raise ValueError(f'patience={patience}: give the number of iterations, 1 or more')
        self.patience = patience
        self._count = 0
        self._first: tuple[int, list[str], float] | None = None  # iteration, files and loss, on the process that saw it
        self._steps: deque[Step] = deque(maxlen=3)  # with one before a gradient that spoils the next loss
        self._frozen: list[Step] = []
        self._batch: Any = None

    @property
    def is_counting(self) -> bool:
        """Whether the last loss was not finite."""
        return self._count > 0

    def before_train(self, runner: Runner) -> None:
        """Begin to note the norms of gradients."""
        self._runner = runner
        wrapper = runner.optim_wrapper
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            one.optimizer.register_step_pre_hook(self._note_gradients)

    def _note_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        with_grad = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        iteration = self._runner.iter + 1
        # PyTorch calls this twice for an optimizer that calls the step of its parent.
        if with_grad and not (self._steps and self._steps[-1].is_of(iteration, with_grad)):
            norms = torch.stack([norm.float() for norm in torch._foreach_norm([p.grad for p in with_grad])])
            self._steps.append(Step(iteration, with_grad, norms, list(iter_files(self._batch))))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the batch."""
        self._batch = data_batch

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look at the loss, and end the run if it is time."""
        self._batch = None
        loss = loss_of(outputs or {})
        is_bad = torch.tensor(int(not torch.isfinite(loss).all()))
        if is_bad and self._first is None:
            files = list(iter_files(data_batch))
            self._first = (runner.iter + 1, files, float(loss.flatten()[0]))
        all_reduce(is_bad, 'max')
        if not is_bad:
            self._count, self._first, self._frozen = 0, None, []
            return
        self._count += 1
        if self._count == 1:
            self._frozen = list(self._steps)
        if self._count >= self.patience:
            self._end(runner)

    def after_train(self, runner: Runner) -> None:
        """Do not end as if all were well if the last losses were not finite."""
        if self._count:
            self._end(runner)

    def _end(self, runner: Runner) -> None:
        bad = next((step for step in self._frozen if not torch.isfinite(step.norms).all()), None)
        gathered = all_gather_object((self._first, bad.files if bad else []))
        seen = [first for first, _ in gathered if first]
        iteration = min(first[0] for first in seen)
        files = [file for first in seen if first[0] == iteration for file in first[1]]
        loss = next(first[2] for first in seen if first[0] == iteration)
        parts = [f'the loss is not finite since iteration {iteration} ({loss})']
        if files:
            parts.append(f'its batch: {_list_files(files)}')
        parts += self._describe_gradients(runner)
        if bad and bad.iteration < iteration:
            parts.append(
                f'the batch of iteration {bad.iteration}: {_list_files([f for _, own in gathered for f in own])}'
            )
        newest = runner.message_hub.get_info('last_ckpt')
        parts.append(f'the newest checkpoint is {newest}' if newest else 'no checkpoint was written before')
        end_with_error(
            runner,
            f'{"; ".join(parts)}. Look at the batch; limit the gradients with --cfg-options '
            'optim_wrapper.clip_grad.max_norm=1 and continue with --resume, or start again with a lower learning rate',
        )

    def _describe_gradients(self, runner: Runner) -> Iterator[str]:
        """The largest gradients of the newest update in which all are finite, and the first that is not."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        names = {id(parameter): own_name(name) for name, parameter in model.named_parameters()}
        bad = [step for step in self._frozen if not torch.isfinite(step.norms).all()]
        good = [step for step in self._frozen if step not in bad]
        if good:
            values, places = good[-1].norms.topk(min(NUM_GRADIENTS, len(good[-1].norms)))
            largest = [
                f'{names.get(id(good[-1].parameters[place]), "?")} {value:.3g}'
                for value, place in zip(values.tolist(), places.tolist())
            ]
            yield f'the largest gradients, by norm, at iteration {good[-1].iteration}: {", ".join(largest)}'
        if bad:
            wrong = (~torch.isfinite(bad[0].norms)).nonzero().flatten().tolist()
            yield (
                f'{len(wrong)} of {len(bad[0].parameters)} gradients are not finite at iteration {bad[0].iteration}, '
                f'such as that of {names.get(id(bad[0].parameters[wrong[0]]), "?")}'
            )


def _list_files(files: Sequence[str]) -> str:
    rest = f' and {len(files) - NUM_FILES} more' if len(files) > NUM_FILES else ''
    return f'{", ".join(files[:NUM_FILES])}{rest}'


def loss_of(outputs: Mapping[str, Any]) -> Tensor:
    """The loss among what a training step logs; their sum if it has no name."""
    if 'loss' in outputs:
        return torch.as_tensor(outputs['loss'])
    losses = [torch.as_tensor(value).sum() for name, value in outputs.items() if 'loss' in name]
    return torch.stack(losses).sum() if losses else torch.zeros(())


def iter_files(batch: Any) -> Iterator[str]:
    """The image files that a batch was loaded from, as MMSegmentation and MMDetection note them in its samples."""
    if isinstance(batch, Mapping):
        paths = batch.get('img_path', [])
        yield from [paths] if isinstance(paths, str) else map(str, paths)
        for value in batch.values():
            yield from iter_files(value)
    elif isinstance(getattr(batch, 'img_path', None), str):
        yield batch.img_path
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for value in batch:
            yield from iter_files(value)
