"""MMEngine's option ``activation_checkpointing``: modules that keep their input and are computed again for gradients."""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from mmengine.runner import runner
from torch import nn
from torch.utils.checkpoint import checkpoint


def turn_on_activation_checkpointing(model: nn.Module, modules: str | Sequence[str]) -> None:
    """Let modules keep only their input for the backward pass, which computes them again.

    MMEngine's own leaves the form to PyTorch, whose default gives no gradient to what takes images alone, so that a backbone
    in the list would not be trained.

    Args:
        model: The whole model.
        modules: Names in it, such as ``'backbone'``.

    Raises:
        ValueError: There is no such module.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        try:
            module = attrgetter(name)(model)
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        except AttributeError:
            parts = ', '.join(child for child, _ in model.named_children())
            raise ValueError(f'activation_checkpointing={name!r} is no part of the model: it has {parts}') from None


def replace_activation_checkpointing() -> None:
    """Let MMEngine's Runner use :func:`turn_on_activation_checkpointing` of this module."""
    runner.turn_on_activation_checkpointing = turn_on_activation_checkpointing
