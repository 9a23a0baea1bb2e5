"""Read checkpoints from files, URLs and hubs without running the code that they may hold.

:func:`replace_mmengine_loaders`, which ``import mmtwins`` calls, lets MMEngine read in the same way. So does everything that
reads through it: ``init_cfg``, ``load_from``, MMSegmentation's and MMDetection's own tools.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from .allowed import allow_mmengine_checkpoints, disallow_mmengine_checkpoints
from .fetching import fetch
from .formats import unwrap
from .opening import check_plain, noted_configs, printable, read_file
from .pretrained import IMAGENET_SCHEME, fetch_imagenet_weights

HUB_SCHEMES = ('hf-hub:', 'hf_hub:')
FETCHED_SCHEMES = ('http://', 'https://', *HUB_SCHEMES, IMAGENET_SCHEME)
Loader = Callable[..., Any]
LOADERS: dict[str, Loader] = {}  # by patterns of names, as MMEngine keeps them
_kept: dict[str, Any] = {}  # of keep_for_next_read
_replaced: dict[str, Loader] = {}  # MMEngine's own
_fromstring = Config.__dict__['fromstring']


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
    name = str(path)
    try:
        content = _find_loader(name)(name, map_location='cpu')
        check_plain(content, name)
        return content
    except (ImportError, ValueError, PermissionError):
        raise
    except OSError as error:
        if not is_remote(name):
            raise
        raise OSError(f'checkpoint {printable(name)} cannot be fetched: {error}') from None
    except Exception as error:
        raise ValueError(
            f'checkpoint {printable(name)} cannot be read, it is incomplete or no checkpoint: {type(error).__name__}: {error}'
        ) from None


def _find_loader(name: str) -> Loader:
    """The function that loads what a name names: ours, or one that somebody has given MMEngine for a scheme of theirs."""
    theirs: Loader = CheckpointLoader._get_checkpoint_loader(name)
    if theirs.__module__.partition('.')[0] not in ('mmengine', 'mmtwins'):
        return theirs
    return next(LOADERS[pattern] for pattern in sorted(LOADERS, reverse=True) if re.match(pattern, name))


def keep_for_next_read(checkpoints: Mapping[str, Any]) -> None:
    """Hand checkpoints that were read already to whoever reads them next through ``CheckpointLoader``.

    Args:
        checkpoints: By path. Each is handed out once; those of an earlier call are forgotten.
    """
    _kept.clear()
    _kept.update(checkpoints)


def _loads(*patterns: str) -> Callable[[Loader], Loader]:
    """Make a function the loader of names that match a pattern, for what is not kept already."""

    def register(load: Loader) -> Loader:
        @wraps(load)
        def load_unless_kept(filename: str, *args: Any, **kwargs: Any) -> Any:
            return _kept.pop(filename) if filename in _kept else load(filename, *args, **kwargs)

        LOADERS.update(dict.fromkeys(patterns, load_unless_kept))
        return load

    return register


def replace_mmengine_loaders() -> None:
    """Let MMEngine read every checkpoint as weights only, until :func:`restore_mmengine_loaders`.

    Three things change in this process: the functions that ``CheckpointLoader`` calls for files, URLs and other schemes; what
    ``torch.load(weights_only=True)`` takes, see :func:`mmtwins.weights.allowed.allow_mmengine_checkpoints`; and
    ``Config.fromstring`` refuses the text of a config that stood in a checkpoint, which inferencers without a config would
    run.
    """
    for pattern, load in LOADERS.items():
        known = CheckpointLoader._schemes.get(pattern)
        if known is not load:
            if known is not None:
                _replaced[pattern] = known
            CheckpointLoader.register_scheme(pattern, load, force=True)
    Config.fromstring = staticmethod(_from_own_string)
    allow_mmengine_checkpoints()


def restore_mmengine_loaders() -> None:
    """Undo :func:`replace_mmengine_loaders`: MMEngine reads with its own functions, which may run code.

    The commands and functions of this package still read as weights only.
    """
    for pattern, load in LOADERS.items():
        if CheckpointLoader._schemes.get(pattern) is load:
            if pattern in _replaced:
                CheckpointLoader._schemes[pattern] = _replaced[pattern]
            else:
                del CheckpointLoader._schemes[pattern]
    _replaced.clear()
    Config.fromstring = _fromstring
    disallow_mmengine_checkpoints()


@wraps(_fromstring.__func__)
def _from_own_string(cfg_str: str, *args: Any, **kwargs: Any) -> Any:
    if isinstance(cfg_str, str) and cfg_str in noted_configs:
        raise ValueError('this config stands in a checkpoint and could run code: give the config as a file')
    return _fromstring.__func__(cfg_str, *args, **kwargs)


def is_remote(path: str) -> bool:
    """Whether a checkpoint is named by a URL, a reference to a hub or the name of ImageNet weights."""
    return '://' in str(path) or str(path).startswith(FETCHED_SCHEMES)


@_loads('')
def load_from_file(filename: str, map_location: Any = None) -> Any:
    """Load a local file; raises as :func:`mmtwins.weights.opening.read_file`."""
    try:
        path = Path(filename).expanduser()
    except RuntimeError:  # ~ and a name that nobody here has
        path = Path(filename)
    return read_file(path, map_location)


@_loads('http://', 'https://')
def load_from_http(filename: str, map_location: Any = None) -> Any:
    """Fetch a URL into torch's cache and load the file as weights only; raises OSError, and as :func:`load_from_file`.

    MMEngine's own loader hands the file to ``torch.hub``, which runs the code that it holds.
    """
    return read_file(fetch(filename), map_location, name=filename)


@_loads('modelzoo://', 'torchvision://')
def load_from_torchvision(filename: str, map_location: Any = None) -> Any:
    """Load ``torchvision://NAME``, see :func:`load_from_http`."""
    return load_from_http(_look_up(filename, mmengine_checkpoint.get_torchvision_models()), map_location)


@_loads('open-mmlab://', 'openmmlab://')
def load_from_openmmlab(filename: str, map_location: Any = None) -> Any:
    """Load ``open-mmlab://NAME`` from a URL or a file in MMEngine's home folder, see :func:`load_from_http`."""
    models = mmengine_checkpoint.get_external_models()
    renamed = mmengine_checkpoint.get_deprecated_model_names()
    location = _look_up(filename, {**models, **{old: models[new] for old, new in renamed.items() if new in models}})
    if location.startswith(('http://', 'https://')):
        return load_from_http(location, map_location)
    return load_from_file(str(Path(mmengine_checkpoint._get_mmengine_home()) / location), map_location)


@_loads('mmcls://')
def load_from_mmcls(filename: str, map_location: Any = None) -> Any:
    """Load the backbone of ``mmcls://NAME``, see :func:`load_from_http`."""
    checkpoint = load_from_http(_look_up(filename, mmengine_checkpoint.get_mmcls_models()), map_location)
    return mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)


@_loads(r'(\S+\:)?s3://', r'(\S+\:)?petrel://')
def load_from_ceph(filename: str, map_location: Any = None, backend: str = 'petrel') -> Any:
    """Load from an object store through MMEngine's file backend, as weights only."""
    content = get_file_backend(filename, backend_args={'backend': backend}).get(filename)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'checkpoint'
        path.write_bytes(content)
        return read_file(path, map_location, name=filename)


@_loads('pavi://')
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
        return read_file(path, map_location, name=filename)


@_loads(*HUB_SCHEMES)
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
    return read_file(Path(path), map_location, name=filename)


@_loads(IMAGENET_SCHEME)
def load_from_imagenet(filename: str, map_location: Any = None) -> Any:
    """Load ``imagenet:NAME``, see :func:`mmtwins.weights.pretrained.fetch_imagenet_weights`."""
    return read_file(fetch_imagenet_weights(filename.removeprefix(IMAGENET_SCHEME)), map_location, name=filename)


def _look_up(filename: str, models: dict[str, str]) -> str:
    """Where a named model lies."""
    name = filename.partition('://')[2]
    if name not in models:
        raise ValueError(f'{filename}: there is no model of this name; the names are {", ".join(sorted(models))}')
    return models[name]
