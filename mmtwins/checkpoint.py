"""Loading checkpoints: MMEngine's own without running code from them, foreign ones not silently."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray


def check_weights_fit(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict from which a module would load nothing at all.

    Args:
        state_dict: What is about to be loaded.
        expected: What the module has, under the names at which it will look into ``state_dict``.

    Raises:
        ValueError: No entry of ``expected`` is in ``state_dict`` with the same shape.
    """
    shapes = {name: getattr(value, 'shape', None) for name, value in state_dict.items()}
    if any(shapes.get(name) == value.shape for name, value in expected.items()):
        return
    name, value = next(iter(expected.items()))
    given = [f'{key} {"of no shape" if shape is None else tuple(shape)}' for key, shape in list(shapes.items())[:3]]
    raise ValueError(
        f'no weight in the checkpoint fits the backbone, which looks for names and shapes such as {name} '
        f'{tuple(value.shape)}; the checkpoint has {", ".join(given) or "nothing under that prefix"}. Is it a '
        'checkpoint of another model or architecture? One of a bare backbone goes into the init_cfg of the backbone, '
        "one of a whole model into load_from, or into init_cfg with prefix='backbone.'"
    )


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine's Runner writes.

    Registers exactly the types that they contain besides tensors and plain data: ``HistoryBuffer`` of the message
    hub, and NumPy arrays and scalars of the number types. A ``HistoryBuffer`` names its statistics through
    ``getattr``, which could reach anything, so a look-up confined to these stands in for it.

    Source: ``MessageHub.state_dict`` and ``HistoryBuffer.__getstate__`` in MMEngine 0.10.
    """
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        return  # torch < 2.6 loads everything unless told otherwise, and takes no names for what is safe
    number_types = (np.bool_, np.int32, np.int64, np.float32, np.float64)
    named: list[Callable | tuple[Callable, str]] = [
        HistoryBuffer,
        np.ndarray,
        np.dtype,
        *(type(np.dtype(number)) for number in number_types),
        (_get_statistics_method, 'builtins.getattr'),
    ]
    for package in ('numpy.core', 'numpy._core'):  # NumPy 1 and 2 write one name and read the other
        named.append((multiarray.scalar, f'{package}.multiarray.scalar'))
        named.append((multiarray._reconstruct, f'{package}.multiarray._reconstruct'))
    torch.serialization.add_safe_globals(named)


def _get_statistics_method(owner: type, name: str) -> Callable:
    """``getattr`` as MMEngine's checkpoints need it, and nothing else."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'a checkpoint may not look up {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)
