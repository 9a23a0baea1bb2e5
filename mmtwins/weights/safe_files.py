"""Read one checkpoint file without running the code that it may hold. Needs torch alone."""

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .saving import find_damage

CAN_ALLOW_TYPES = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')  # torch 2.6 or newer


def read_file(path: Path, map_location: Any = None, is_remote: bool = False) -> Any:
    """Read a file as weights only; torch before 2.6 cannot read MMEngine's own so, and trusts local files.

    Args:
        path: .safetensors, or what ``torch.save`` wrote.
        map_location: As in ``torch.load``.
        is_remote: Whether it came from elsewhere; then it is never trusted.

    Returns:
        What it holds.

    Raises:
        ImportError: A .safetensors file, and safetensors is not installed.
        pickle.UnpicklingError: It holds more than weights.
        ValueError: It is damaged.
    """
    if path.suffix == '.safetensors':
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
        try:
            return {name: value.to(device) for name, value in load_file(path).items()}
        except SafetensorError as error:
            raise ValueError(f'checkpoint {path} cannot be read, it is incomplete or damaged: {error}') from None
    damage = find_damage(path) if zipfile.is_zipfile(path) else None  # PyTorch before 1.6 wrote no checksums
    if damage:
        raise ValueError(f'checkpoint {path} cannot be read: {damage}. Get it again, or take another')
    return torch.load(path, map_location=map_location, weights_only=is_remote or CAN_ALLOW_TYPES)


@contextmanager
def saying_damage(path: str | Path, is_remote: bool = False) -> Iterator[None]:
    """Turn what reading a damaged or hostile checkpoint raises into one sentence.

    Args:
        path: Name of the checkpoint, for the sentence.
        is_remote: Whether an OSError means that it cannot be fetched.

    Raises:
        OSError: It cannot be fetched.
        ValueError: It cannot be read, or is refused because it could run code.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        raise ValueError(
            f'checkpoint {path} is refused: besides weights it holds {found[1] if found else "something"}, which could '
            'run code, or it is no checkpoint at all. Get it as plain weights, from its author'
        ) from None
    except (ImportError, ValueError, PermissionError):
        raise
    except Exception as error:  # a damaged file fails anywhere in the unpickler
        if isinstance(error, OSError) and is_remote:
            raise OSError(f'checkpoint {path} cannot be fetched: {error}') from None
        raise ValueError(
            f'checkpoint {path} cannot be read, it is incomplete or no checkpoint: {type(error).__name__}: {error}'
        ) from None
