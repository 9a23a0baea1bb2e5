"""From a config file and command-line options to an MMEngine Runner, checked before anything is written."""

import importlib.util
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from .checkpoint import check_weights_fit

EXTRAS = {'mmseg': 'seg', 'mmdet': 'det'}  # of setup.py, by default_scope


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a user can mend (a value, a file, a missing package) into one line on stderr and exit code 1."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'error: {error}')


def load_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a config and apply ``--cfg-options``.

    The option ``data_root`` replaces the config's data root wherever the config uses it, in data sets and in
    annotation files of metrics.

    Args:
        path: Config file.
        options: Values by dotted name, as ``mmengine.config.DictAction`` gives them.

    Returns:
        The config.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The config needs a library that is not installed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist: give a path such as configs/ade20k/NAME.py')
    cfg = Config.fromfile(path)
    options = dict(options or {})
    if 'data_root' in options and 'data_root' in cfg:
        old = cfg.data_root.rstrip('/')
        new = str(Path(options['data_root']).expanduser())
        cfg = Config(_replace_root(cfg._cfg_dict, old, new), filename=cfg.filename)
        options['data_root'] = new
    cfg.merge_from_dict(options)
    library = cfg.get('default_scope')
    if library in EXTRAS:
        missing = [name for name in (library, 'mmcv') if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f'{path} needs {" and ".join(missing)}, not installed here: run `make setup` in a checkout of mmtwins, '
                f"or `pip install --no-build-isolation 'mmtwins[{EXTRAS[library]}]'`"
            )
    return cfg


def _replace_root(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return type(value)({key: _replace_root(item, old, new) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return type(value)(_replace_root(item, old, new) for item in value)
    if isinstance(value, str) and (value.rstrip('/') == old or value.startswith(f'{old}/')):
        return new + value.rstrip('/')[len(old) :]
    return value


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the folders and annotation files of data sets are there.

    Args:
        cfg: The whole config.
        splits: Of ``'train'``, ``'val'`` and ``'test'``, those that will be read.

    Raises:
        FileNotFoundError: A folder or file is missing, or a folder is empty.
    """
    for split in splits:
        for dataset in _iter_datasets((cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}):
            root = Path(dataset.get('data_root') or '')
            folders = [root / prefix for prefix in (dataset.get('data_prefix') or {}).values() if prefix is not None]
            files = [root / dataset.ann_file] if dataset.get('ann_file') else []
            for path in folders + files:
                if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                    raise FileNotFoundError(
                        f'the {split} data set needs {path}, which {"is empty" if path.exists() else "does not exist"}:'
                        ' put the data there, or name their folder with --cfg-options data_root=FOLDER'
                    )


def _iter_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset; only those on a local disk."""
    if 'dataset' in dataset:
        yield from _iter_datasets(dataset['dataset'])
    elif 'datasets' in dataset:
        for inner in dataset['datasets']:
            yield from _iter_datasets(inner)
    elif not dataset.get('backend_args'):
        yield dataset


def check_checkpoints(cfg: Config) -> None:
    """Check that the checkpoints named by a config can be read and fit its backbone.

    Covers ``load_from``, the one that ``resume`` would take from the work directory, and ``Pretrained`` in the
    backbone's ``init_cfg``. Remote ones are left to MMEngine.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, would run code when loaded, or no weight in it fits the backbone.
    """
    model = cfg.model.get('module', cfg.model)  # inside a test-time augmentation wrapper
    backbone = model.get('backbone')
    if backbone is None:
        return
    wanted = []
    path = cfg.get('load_from')
    if cfg.get('resume') and not path:
        path = find_latest_checkpoint(cfg.work_dir) if Path(cfg.work_dir).is_dir() else None
    if path:
        wanted.append((path, '', 'backbone.'))
    init_cfg = backbone.get('init_cfg') or []
    for init in [init_cfg] if isinstance(init_cfg, dict) else init_cfg:
        if init.get('type') == 'Pretrained':
            wanted.append((init['checkpoint'], init.get('prefix') or '', ''))
    if not wanted:
        return
    with torch.device('meta'):
        expected = MODELS.build({'_scope_': cfg.get('default_scope'), **backbone, 'init_cfg': None}).state_dict()
    for path, strip, prefix in wanted:
        if '://' in str(path):
            continue
        state_dict = _read_state_dict(path)
        if strip:
            strip = strip.rstrip('.') + '.'
            state_dict = {name.removeprefix(strip): v for name, v in state_dict.items() if name.startswith(strip)}
        try:
            check_weights_fit(state_dict, {prefix + name: value for name, value in expected.items()})
        except ValueError as error:
            raise ValueError(f'checkpoint {path}: {error}') from None


def _read_state_dict(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist: give the path of a .pth file')
    try:
        checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'checkpoint {path} is refused: besides weights it holds something that could run code, or it is no '
            f'checkpoint at all. Get it from its author as plain weights. torch says: {str(error).splitlines()[-1]}'
        ) from None
    except Exception as error:  # a damaged file fails anywhere in the unpickler
        raise ValueError(
            f'checkpoint {path} cannot be read, it is incomplete or no checkpoint: {type(error).__name__}: {error}'
        ) from None
    state_dict = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    return {name.removeprefix('module.'): value for name, value in state_dict.items()}


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config that has ``work_dir`` and ``launcher``, not yet started."""
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
