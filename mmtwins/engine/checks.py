"""Find out before anything is written whether data, checkpoints and devices are there and fit."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import find_latest_checkpoint

from ..datasets.data_sources import iter_datasets
from ..weights.applying import FittedCheckpoint, check_other, fit_file
from ..weights.fitting import Fit, check_heads, has_one_backbone
from ..weights.formats import unwrap
from ..weights.loading import FETCHED_SCHEMES, is_remote, load_safely, naming_checkpoint
from ..weights.pretrained import names_imagenet
from .model import build_on_meta


def check_device(device: str | None) -> str:
    """Check that a device can be used here.

    Args:
        device: Such as ``'cpu'`` or ``'cuda:0'``; None takes a GPU if there is one.

    Returns:
        The device to use.

    Raises:
        ValueError: The device is not there.
    """
    if device is None:
        return get_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'device {device!r} cannot be used here ({str(error).splitlines()[0]}): take cpu'
            + (f' or cuda:0 to cuda:{torch.cuda.device_count() - 1}' if torch.cuda.is_available() else '')
        ) from None
    return device


def check_data(cfg: Config, *splits: str) -> None:
    """Check that the folders and annotation files of data sets are there.

    Args:
        cfg: The whole config.
        splits: Of ``'train'``, ``'val'`` and ``'test'``, those that will be read.

    Raises:
        FileNotFoundError: A folder or file is missing, or a folder is empty.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        if not isinstance(loader, Mapping) or 'dataset' not in loader:
            continue
        for key, dataset in iter_datasets(loader['dataset'], f'{split}_dataloader.dataset'):
            if dataset.get('backend_args') or '://' in str(dataset.get('data_root')):
                continue
            for path in _paths_of(dataset, key):
                if not path.exists() or (path.is_dir() and not any(path.iterdir())):
                    raise FileNotFoundError(
                        f'the {split} data set needs {path}, which {"is empty" if path.exists() else "does not exist"}:'
                        ' put the data there, or name their folder with --cfg-options data_root=FOLDER'
                    )


def _paths_of(dataset: Mapping, key: str) -> Iterator[Path]:
    """The folders and the annotation file of a data set; raises ValueError for what is no path."""
    root, prefixes, file = (dataset.get(name) or '' for name in ('data_root', 'data_prefix', 'ann_file'))
    if not isinstance(prefixes, Mapping | str):
        raise ValueError(f"{key}.data_prefix is {prefixes!r}: write dict(img='FOLDER') or the like")
    found = {f'data_prefix.{name}': value for name, value in prefixes.items()} if isinstance(prefixes, Mapping) else {}
    for name, value in {'data_root': root, **found, 'ann_file': file}.items():
        if not isinstance(value, str | os.PathLike | None):
            raise ValueError(f'{key}.{name} is {value!r}: write a path')
        if value is not None and name != 'data_root' and (value or name != 'ann_file'):
            yield Path(root) / value


def check_checkpoints(cfg: Config, for_training: bool = True, allow_random_heads: bool = True) -> dict[str, dict]:
    """Check that the checkpoints named by a config can be read and fit its model.

    Covers ``load_from``, the one that ``resume`` would take from the work directory, and, for a training, ``Pretrained``
    in the ``init_cfg`` of model and backbone. Those on a web server or hub are fetched, into the cache where MMEngine
    looks for them; those behind other schemes, and models without a Twins backbone, are left to MMEngine. ImageNet
    weights that one of the others replaces are not fetched.

    Args:
        cfg: The whole config.
        for_training: Whether weights are initialised. Then heads that are missing, or for another number of classes, will
            do, too: they are trained anew.
        allow_random_heads: Whether a checkpoint without any head of the model will do also for an evaluation.

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
    for part in (model, model.get('backbone')) if for_training else ():
        init_cfg = (part.get('init_cfg') or []) if isinstance(part, Mapping) else []
        wanted += [
            (part, init['checkpoint'], init.get('prefix'))
            for init in ([init_cfg] if isinstance(init_cfg, dict) else init_cfg)
            if isinstance(init, Mapping) and init.get('type') == 'Pretrained' and init.get('checkpoint')
            if not (start and names_imagenet(init))
        ]
    found = {}
    for part, path, prefix in wanted:
        if is_remote(path) and (not str(path).startswith(FETCHED_SCHEMES) or int(os.environ.get('LOCAL_RANK', 0))):
            continue
        if os.path.isdir(path) and (
            any(Path(path).glob('.metadata')) or any(Path(path).glob('*/.metadata'))
        ):  # of PyTorch
            raise ValueError(
                f"checkpoint {path} is a folder, as MMEngine's FSDPStrategy writes it by default, which PyTorch cannot read back "
                "as weights only: train with our tools, or with strategy.state_dict_cfg='full', for files"
            )
        checkpoint = load_safely(path)
        with naming_checkpoint(path):
            unwrap(checkpoint)
            expected = build_on_meta(cfg, part).state_dict()
            if has_one_backbone(expected):
                fit = fit_file(checkpoint, expected, prefix)
                if part is model and not for_training:
                    _check_heads(fit, allow_random_heads)
                elif cfg.get('resume') and path == start and 'iter' not in (checkpoint.get('meta') or {}):
                    raise ValueError('it holds weights only, no state of a training to resume: name it in load_from')
                checkpoint = FittedCheckpoint(checkpoint, fit)
            elif part is model and not for_training and not allow_random_heads:
                check_other(unwrap(checkpoint), expected)
        found[path] = checkpoint
    paths = [path for _, path, _ in wanted]
    return {path: checkpoint for path, checkpoint in found.items() if paths.count(path) == 1}


def _check_heads(fit: Fit, allow_random_heads: bool) -> None:
    """As :func:`mmtwins.weights.fitting.check_heads`, with the argument of `mmtwins test` as a remedy."""
    try:
        check_heads(fit, allow_bare_backbone=allow_random_heads)
    except ValueError as error:
        if fit.num_heads:
            raise
        raise ValueError(f'{error}, or evaluate random heads with --allow-random-heads') from None
