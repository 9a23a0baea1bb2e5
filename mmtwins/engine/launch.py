"""From a config file and command-line options to an MMEngine Runner, checked before anything is written."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from ..weights.applying import FittedCheckpoint, fit_file
from ..weights.fitting import check_heads, has_one_backbone
from ..weights.formats import unwrap
from ..weights.loading import FETCHED_SCHEMES, is_remote, keep_for_next_read, load_safely, naming_checkpoint
from .hooks import CheckBatchSizeHook, FitCheckpointHook
from .model import build_on_meta

EXTRAS = {'mmseg': 'seg', 'mmdet': 'det'}  # of setup.py, by default_scope


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn what a user can mend (a value, a file, a missing package) into one line on stderr and exit code 1."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'error: {error}')


class ImageSize(argparse.Action):
    """Store (height, width) in pixels from two numbers, or from one side of a square; goes with ``nargs='+'``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) > 2:
            parser.error(
                f'{self.option_strings[0]} takes a height and a width, or one side of a square, not {len(values)} numbers'
            )
        setattr(namespace, self.dest, (values[0], values[-1]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing share on their command lines."""
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/CONFIG NAME)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override values of the config, such as data_root=FOLDER train_cfg.max_iters=100',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def config_from(args: argparse.Namespace) -> Config:
    """The config that a command line names, with its options, launcher and work directory; raises as load_config."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


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
        ValueError: The file is no config, or an option does not fit it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'config {path} does not exist: give a path such as configs/ade20k/NAME.py')
    options = dict(options or {})
    try:
        cfg = Config.fromfile(path)
        if 'data_root' in options:
            options['data_root'] = os.path.expanduser(str(options['data_root'])).rstrip('/') or '/'
            old = str(cfg.get('data_root') or '').rstrip('/')
            if old:
                _replace_root(cfg._cfg_dict, old, options['data_root'])
        _drop_own_scope(cfg._cfg_dict)
        cfg.merge_from_dict(options)
    except ImportError as error:
        raise ImportError(f'{path}: {error}. {_how_to_install("all")}') from error
    except FileNotFoundError as error:
        if '.mim' in str(error):
            raise FileNotFoundError(
                f"{path}: _base_ = 'mmtwins::...' needs an installed package (pip install ., not editable); in a checkout, "
                'write the path of the config'
            ) from error
        raise
    except (TypeError, KeyError, SyntaxError) as error:
        raise ValueError(f'{path} with the options {options}: {type(error).__name__}: {error}') from error
    library = cfg.get('default_scope')
    if library in EXTRAS:
        missing = [name for name in (library, 'mmcv') if importlib.util.find_spec(name) is None]
        if not missing and importlib.util.find_spec('mmcv._ext') is None:
            missing = ["mmcv's compiled operators"]
        if missing:
            raise ImportError(
                f'{path} needs {" and ".join(missing)}, not installed here. {_how_to_install(EXTRAS[library])}'
            )
    return cfg


def _how_to_install(extra: str) -> str:
    return (
        'Run `make setup` in a checkout of mmtwins, or, with the build tools of requirements/build.txt, '
        f"`pip install --no-build-isolation --no-cache-dir 'mmtwins[{extra}]'`"
    )


def _drop_own_scope(container: dict | list | tuple) -> None:
    """Leave it to default_scope where types come from: a base 'mmtwins::...' marks all of its types as ours."""
    if isinstance(container, dict):
        if dict.get(container, '_scope_') == 'mmtwins':
            dict.pop(container, '_scope_')
        container = dict.values(container)
    for value in container:
        if isinstance(value, dict | list | tuple):
            _drop_own_scope(value)


def _replace_root(container: dict | list, old: str, new: str) -> None:
    """Replace the start of every path in a config, in place; tuples are made anew."""
    # dict's own methods: those of ConfigDict would build what a lazy config only names.
    items = dict.items(container) if isinstance(container, dict) else enumerate(container)
    for key, value in list(items):
        if isinstance(value, tuple):
            value = list(value)
            _replace_root(value, old, new)
            value = tuple(value)
        elif isinstance(value, dict | list):
            _replace_root(value, old, new)
        elif isinstance(value, str) and (value.rstrip('/') == old or value.startswith(f'{old}/')):
            value = new + value.rstrip('/')[len(old) :]
        if isinstance(container, dict):
            dict.__setitem__(container, key, value)
        else:
            container[key] = value


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
    elif not dataset.get('backend_args') and '://' not in str(dataset.get('data_root')):
        yield dataset


def check_checkpoints(cfg: Config, for_training: bool = True) -> dict[str, dict]:
    """Check that the checkpoints named by a config can be read and fit its model.

    Covers ``load_from``, the one that ``resume`` would take from the work directory, and ``Pretrained`` in the
    ``init_cfg`` of model and backbone. Those on a web server or hub are fetched, into the cache where MMEngine looks for
    them; those behind other schemes, and models without a Twins backbone, are left to MMEngine.

    Args:
        cfg: The whole config.
        for_training: Whether heads for another number of classes will do, since they are trained anew.

    Returns:
        What was read, by path, for :func:`build_runner`, so that the Runner neither reads nor fits it again.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be fetched.
        ValueError: It is no checkpoint, would run code when loaded, or does not fit.
    """
    model = cfg.model.get('module', cfg.model)  # inside a test-time augmentation wrapper
    start = cfg.get('load_from')
    if cfg.get('resume') and not start:
        start = find_latest_checkpoint(cfg.work_dir) if Path(cfg.work_dir).is_dir() else None
    wanted = [(model, start, None)] if start else []
    for part in (model, model.get('backbone') or {}):
        init_cfg = part.get('init_cfg') or []
        wanted += [
            (part, init['checkpoint'], init.get('prefix'))
            for init in ([init_cfg] if isinstance(init_cfg, dict) else init_cfg)
            if init.get('type') == 'Pretrained'
        ]
    found = {}
    for part, path, prefix in wanted:
        if is_remote(path) and (not str(path).startswith(FETCHED_SCHEMES) or int(os.environ.get('LOCAL_RANK', 0))):
            continue
        checkpoint = load_safely(path)
        with naming_checkpoint(path):
            unwrap(checkpoint)
            expected = build_on_meta(cfg, part).state_dict()
            if has_one_backbone(expected):
                fit = fit_file(checkpoint, expected, prefix)
                if part is model and not for_training:
                    check_heads(fit, allow_bare_backbone=True)
                elif cfg.get('resume') and path == start and 'iter' not in checkpoint.get('meta', {}):
                    raise ValueError('it holds weights only, no state of a training to resume: name it in load_from')
                checkpoint = FittedCheckpoint(checkpoint, fit)
        found[path] = checkpoint
    paths = [path for _, path, _ in wanted]
    return {path: checkpoint for path, checkpoint in found.items() if paths.count(path) == 1}


def build_runner(cfg: Config, checkpoints: Mapping[str, dict] | None = None) -> Runner:
    """Build the Runner of a config, not yet started.

    Args:
        cfg: The whole config, with ``work_dir`` and ``launcher``.
        checkpoints: What :func:`check_checkpoints` returned; the Runner takes it instead of reading the files.

    Returns:
        The Runner.
    """
    keep_for_next_read(checkpoints or {})
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for kind in (FitCheckpointHook, CheckBatchSizeHook):  # for configs that do not have them
        if not any(isinstance(hook, kind) for hook in runner.hooks):
            runner.register_hook(kind())
    return runner
