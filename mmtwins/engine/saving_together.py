"""Write a checkpoint of a Runner so that all processes learn whether it worked, also with a FlexibleRunner."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.runner import FlexibleRunner, Runner, checkpoint


@contextmanager
def saving_together(runner: Runner | FlexibleRunner, backend_args: dict | None) -> Iterator[None]:
    """Fix ``runner.save_checkpoint`` inside a ``with`` block; every process of the run must call it.

    It raises OSError in every process if the first one could not write. A FlexibleRunner uses ``backend_args`` and ``meta``
    as given. By itself it would write straight to the local disk, and count one iteration too many after the last one.

    Args:
        runner: The Runner of the run.
        backend_args: As for ``save_checkpoint``.
    """
    save, is_own = runner.save_checkpoint, 'save_checkpoint' in vars(runner)

    def save_together(*args: Any, meta: dict, **kwargs: Any) -> None:
        problem = ['']
        try:
            if isinstance(runner, FlexibleRunner):
                with _writing_as_told(runner, backend_args, meta):
                    save(*args, meta=meta, **kwargs)
            else:
                save(*args, meta=meta, **kwargs)
        except OSError as error:
            problem = [str(error)]
        broadcast_object_list(problem)
        if problem[0]:
            raise OSError(problem[0])

    setattr(runner, 'save_checkpoint', save_together)  # noqa: B010  # mypy refuses a method
    try:
        yield
    finally:
        if is_own:
            setattr(runner, 'save_checkpoint', save)  # noqa: B010
        else:
            del runner.save_checkpoint


@contextmanager
def _writing_as_told(runner: FlexibleRunner, backend_args: dict | None, meta: dict) -> Iterator[None]:
    """Let a strategy write where ``backend_args`` says, and note the iterations and epochs of ``meta``."""
    strategy, told, write = runner.strategy, dict(meta), checkpoint.save_checkpoint
    save = strategy.save_checkpoint

    def save_as_told(*args: Any, extra_ckpt: dict, **kwargs: Any) -> None:
        save(*args, extra_ckpt={**extra_ckpt, 'meta': {**extra_ckpt['meta'], **told}}, **kwargs)

    strategy.save_checkpoint = save_as_told
    checkpoint.save_checkpoint = partial(write, backend_args=backend_args)
    try:
        yield
    finally:
        checkpoint.save_checkpoint = write
        del strategy.save_checkpoint
