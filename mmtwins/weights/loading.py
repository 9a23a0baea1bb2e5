"""Read checkpoints from files, URLs and hubs without running the code that they may hold.

Importing this module replaces the loaders of MMEngine's ``CheckpointLoader``, so that everything that reads through it
(``init_cfg``, ``load_from``, MMSegmentation's and MMDetection's own tools) reads as weights only.
"""

import argparse
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from .fetching import fetch
from .formats import unwrap
from .pretrained import IMAGENET_SCHEME, fetch_imagenet_weights
from .safe_files import CAN_ALLOW_TYPES, read_file, saying_damage

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]  # the same module by its older name

HUB_SCHEMES = ('hf-hub:', 'hf_hub:')
FETCHED_SCHEMES = ('http://', 'https://', *HUB_SCHEMES, IMAGENET_SCHEME)
_kept: dict[str, Any] = {}  # of keep_for_next_read


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, of whichever model.

    Args:
        path: File (.pth, .safetensors), URL, ``hf-hub:`` or ``imagenet:`` reference.

    Returns:
        Its tensors by name, see :func:`mmtwins.weights.formats.unwrap`.

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
        name = str(path).removeprefix(IMAGENET_SCHEME)
        hint = f'. These are the weights of {name}: name those of your architecture, or none by init_cfg=None'
        raise ValueError(f'checkpoint {path}: {error}{hint if name != str(path) else ""}') from None


def load_safely(path: str) -> Any:
    """What a checkpoint holds, all of it; arguments and errors as those of :func:`read_checkpoint`."""
    if not is_remote(path) and not Path(path).expanduser().is_file():
        state = 'is a folder' if Path(path).expanduser().is_dir() else 'does not exist'
        raise FileNotFoundError(f'checkpoint {path} {state}: give the path of a .pth or .safetensors file')
    with saying_damage(path, is_remote(path)):
        return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')


def keep_for_next_read(checkpoints: Mapping[str, Any]) -> None:
    """Hand checkpoints that were read already to whoever reads them next through ``CheckpointLoader``.

    Args:
        checkpoints: By path. Each is handed out once; those of an earlier call are forgotten.
    """
    _kept.clear()
    _kept.update(checkpoints)


def _register(prefixes: str | tuple[str, ...] | list[str]) -> Callable[[Callable], Callable]:
    """Make a function MMEngine's loader of a scheme, for what is not kept already."""

    def register(load: Callable) -> Callable:
        @wraps(load)
        def load_unless_kept(filename: str, *args: Any, **kwargs: Any) -> Any:
            return _kept.pop(filename) if filename in _kept else load(filename, *args, **kwargs)

        CheckpointLoader.register_scheme(prefixes, load_unless_kept, force=True)
        return load

    return register


def is_remote(path: str) -> bool:
    """Whether a checkpoint is named by a URL, a reference to a hub or the name of ImageNet weights."""
    return '://' in str(path) or str(path).startswith(FETCHED_SCHEMES)


@_register('')
def load_from_file(filename: str, map_location: Any = None) -> Any:
    """Load a local file: .safetensors, or what ``torch.save`` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        pickle.UnpicklingError: It holds more than weights, see :func:`allow_mmengine_checkpoints`.
        ValueError: A .safetensors file is damaged.
    """
    path = Path(filename).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'{filename} can not be found.')
    return read_file(path, map_location)


@_register(('http://', 'https://'))
def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Fetch a URL into torch's cache and load the file as weights only; raises OSError, and as :func:`load_from_file`.

    MMEngine's own loader hands the file to ``torch.hub``, which runs the code that it holds.
    """
    return read_file(fetch(filename), map_location, is_remote=True)


@_register(('modelzoo://', 'torchvision://'))
def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Load ``torchvision://NAME``, see :func:`load_from_http`."""
    return load_from_http(_look_up(filename, mmengine_checkpoint.get_torchvision_models()), map_location)


@_register(('open-mmlab://', 'openmmlab://'))
def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Load ``open-mmlab://NAME`` from a URL or a file in MMEngine's home folder, see :func:`load_from_http`."""
    models = mmengine_checkpoint.get_external_models()
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    location = _look_up(filename, {**models, **{old: models[new] for old, new in renamed.items() if new in models}})
    if location.startswith(('http://', 'https://')):
        return load_from_http(location, map_location)
    return load_from_file(str(Path(mmengine_checkpoint._get_mmengine_home()) / location), map_location)


@_register('mmcls://')
def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Load the backbone of ``mmcls://NAME``, see :func:`load_from_http`."""
    checkpoint = load_from_http(_look_up(filename, mmengine_checkpoint.get_mmcls_models()), map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)


@_register([r'(\S+\:)?s3://', r'(\S+\:)?petrel://'])
def load_from_ceph(filename: str, map_location: Any = None, backend: str = 'petrel') -> Any:
    """Load from an object store through MMEngine's file backend, as weights only."""
    content = get_file_backend(filename, backend_args={'backend': backend}).get(filename)
    return torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)


@_register('pavi://')
def load_from_pavi(filename: str, map_location: Any = None) -> Any:
    """Load from SenseTime's model cloud, as weights only; raises ImportError without its package."""
    try:
        from pavi import modelcloud
    except ImportError as error:
        raise ImportError(f'{filename} needs the package pavi') from error
    model = modelcloud.get(filename.removeprefix('pavi://'))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(model.name).name
        model.download(str(path))
        return read_file(path, map_location, is_remote=True)


@_register(HUB_SCHEMES)
def load_from_hub(filename: str, map_location: Any = None) -> Any:
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
        raise ImportError(f'{filename} needs huggingface_hub: pip install huggingface_hub') from error
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
    return read_file(Path(path), map_location, is_remote=True)


@_register(IMAGENET_SCHEME)
def load_from_imagenet(filename: str, map_location: Any = None) -> Any:
    """Load ``imagenet:NAME``, see :func:`mmtwins.weights.pretrained.fetch_imagenet_weights`."""
    return read_file(fetch_imagenet_weights(filename.removeprefix(IMAGENET_SCHEME)), map_location, is_remote=True)


def _look_up(filename: str, models: dict[str, str]) -> str:
    """Where a named model lies."""
    name = filename.partition('://')[2]
    if name not in models:
        raise ValueError(f'{filename}: there is no model of this name; the names are {", ".join(sorted(models))}')
    return models[name]


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine's Runner writes.

    Registers exactly the types that they contain besides tensors and plain data: ``HistoryBuffer`` of the message
    hub, and NumPy arrays and scalars of the number types. A ``HistoryBuffer`` names its statistics through
    ``getattr``, which could reach anything, so a look-up confined to these stands in for it. ``argparse.Namespace`` is
    what the public training code keeps its options in.

    Source: ``MessageHub.state_dict`` and ``HistoryBuffer.__getstate__`` in MMEngine 0.10.
    """
    if not CAN_ALLOW_TYPES:
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
