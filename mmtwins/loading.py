"""Reading checkpoints: MMEngine's own without running code from them, .safetensors, the Hugging Face hub."""

import argparse
import os
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from torch import Tensor

from .checkpoint import unwrap

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray

HUB_SCHEMES = ('hf-hub:', 'hf_hub:')
FETCHED_SCHEMES = ('http://', 'https://', *HUB_SCHEMES)


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, of whichever model.

    Args:
        path: File (.pth, .safetensors), URL or ``hf-hub:`` reference.

    Returns:
        Its tensors by name, see :func:`mmtwins.checkpoint.unwrap`.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: A reference to the hub without huggingface_hub.
        OSError: It cannot be fetched.
        ValueError: It is no checkpoint, is damaged, or would run code when loaded.
    """
    checkpoint = load_safely(path)
    with naming_checkpoint(path):
        return unwrap(checkpoint)


@contextmanager
def naming_checkpoint(path: str | Path) -> Iterator[None]:
    """Name the checkpoint in a ValueError raised inside."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'checkpoint {path}: {error}') from None


def load_safely(path: str) -> Any:
    """What a checkpoint holds, all of it; arguments and errors as those of :func:`read_checkpoint`."""
    if not is_remote(path) and not Path(path).expanduser().is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist: give the path of a .pth or .safetensors file')
    try:
        return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        raise ValueError(
            f'checkpoint {path} is refused: besides weights it holds {found[1] if found else "something"}, which could '
            'run code, or it is no checkpoint at all. Get it as plain weights, from its author'
        ) from None
    except (ImportError, ValueError):
        raise
    except PermissionError:
        raise
    except Exception as error:  # a damaged file fails anywhere in the unpickler
        if isinstance(error, OSError) and is_remote(path):
            raise OSError(f'checkpoint {path} cannot be fetched: {error}') from None
        raise ValueError(
            f'checkpoint {path} cannot be read, it is incomplete or no checkpoint: {type(error).__name__}: {error}'
        ) from None


def is_remote(path: str) -> bool:
    """Whether a checkpoint is named by a URL or a reference to a hub."""
    return '://' in str(path) or str(path).startswith(HUB_SCHEMES)


@CheckpointLoader.register_scheme(prefixes=HUB_SCHEMES, force=True)
def load_from_hub(filename: str, map_location: Any = None) -> dict:
    """Load ``hf-hub:OWNER/NAME[@REVISION][/FILE]`` from the Hugging Face hub or its local cache.

    Without a file it is ``model.safetensors``, else ``pytorch_model.bin``.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: The reference is none.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise ImportError(f"{filename} needs huggingface_hub: pip install 'mmtwins[hub]'") from error
    found = re.fullmatch(r'hf[-_]hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/(.+))?', filename)
    if not found:
        raise ValueError(f'{filename!r}: give hf-hub:OWNER/NAME, hf-hub:OWNER/NAME@REVISION or hf-hub:OWNER/NAME/FILE')
    repository, revision, file = found.groups()
    if file is None:
        try:
            path = hf_hub_download(repository, 'model.safetensors', revision=revision)
        except EntryNotFoundError:
            path = hf_hub_download(repository, 'pytorch_model.bin', revision=revision)
    else:
        path = hf_hub_download(repository, file, revision=revision)
    return CheckpointLoader.load_checkpoint(path, map_location, logger='silent')


# MMEngine tries its patterns in reverse order of their text; this one has to come before http, hence the z.
@CheckpointLoader.register_scheme(prefixes=r'z{0}(?!hf[-_]hub:).*\.safetensors(\?.*)?$', force=True)
def load_from_safetensors(filename: str, map_location: Any = None) -> dict[str, Tensor]:
    """Load a .safetensors file from a path or an http(s) URL.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(filename).expanduser()
    if '://' in filename:
        path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(filename.partition('?')[0]).name
        _download(filename, path)
    if not path.is_file():
        raise FileNotFoundError(f'{filename} can not be found.')
    device = map_location if isinstance(map_location, str | torch.device) else 'cpu'
    try:
        return {name: value.to(device) for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f'checkpoint {filename} cannot be read, it is incomplete or damaged: {error}') from None


def _download(url: str, path: Path) -> None:
    rank, world_size = get_dist_info()
    if rank == 0 and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=os.isatty(0))
    if world_size > 1:
        torch.distributed.barrier()


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine's Runner writes.

    Registers exactly the types that they contain besides tensors and plain data: ``HistoryBuffer`` of the message
    hub, and NumPy arrays and scalars of the number types. A ``HistoryBuffer`` names its statistics through
    ``getattr``, which could reach anything, so a look-up confined to these stands in for it. ``argparse.Namespace`` is
    what the public training code keeps its options in.

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
        argparse.Namespace,
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
