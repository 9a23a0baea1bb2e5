"""Batches of a config's own data for measurements: real images, with the size of the images fixed where that is asked for."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.utils.data import DataLoader

from ..engine.building import naming_config
from ..engine.config import load_config
from .peers import installed_peers

LOADERS = {'training': 'train_dataloader', 'inference': 'test_dataloader'}


def load_with_data(config: str, data_root: str | None = None) -> Config:
    """Load a config whose data exists, and use its settings for processes and OpenCV.

    Args:
        config: Name of a recipe or config file.
        data_root: Folder to use instead of the config's data root.

    Returns:
        The config.

    Raises:
        ValueError: The config has no data, or there is no such folder.
    """
    installed_peers()  # in the right order: mmseg imports torchvision where that is installed
    cfg = load_config(config, dict(data_root=data_root) if data_root else None)
    missing = [name for name in LOADERS.values() if not cfg.get(name)]
    if missing:
        raise ValueError(f'{config} has no {" and no ".join(missing)}: give a config with data')
    root = cfg.get('data_root')
    if root and not Path(root).is_dir():
        raise ValueError(f'{config}: there is no data in {root}: give the folder with --data-root')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    processes = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    set_multi_processing(**processes)
    return cfg


def fix_size(cfg: Config, height: int, width: int) -> None:
    """Let every image of a config be of one size, in place, so that steps can be compared.

    Resizing to a given size, random crops and padding of the pre-processing become of this size; what changes the size
    in another way stays.

    Args:
        cfg: The config.
        height: In pixels.
        width: In pixels.
    """
    for name in LOADERS.values():
        for step in _transforms_of(cfg[name].dataset):
            kind = str(step.get('type')).rpartition('.')[2]
            if kind == 'Resize':
                step.pop('scale_factor', None)
                step.update(scale=(width, height), keep_ratio=False)
            elif kind == 'RandomCrop':
                step.crop_size = (height, width)
    if cfg.model.get('data_preprocessor', {}).get('size') is not None:
        cfg.model.data_preprocessor.size = (height, width)


def _transforms_of(dataset: Any) -> Iterator[Any]:
    """The transforms of a data set in a config, and of those that it wraps."""
    yield from dataset.get('pipeline') or ()
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or ())]:
        if inner:
            yield from _transforms_of(inner)


def build_loader(cfg: Config, work: str, batch: int, workers: int) -> DataLoader:
    """Build the data loader of a config that never ends.

    Args:
        cfg: From :func:`load_with_data`.
        work: ``'training'`` or ``'inference'``: which loader.
        batch: Images at once.
        workers: Processes that load; 0 loads in this process.

    Returns:
        The loader, in an order that is the same each time.

    Raises:
        ValueError: The data cannot be read.
    """
    settings = copy.deepcopy(cfg[LOADERS[work]])
    settings.update(batch_size=batch, num_workers=workers, persistent_workers=workers > 0)
    settings.sampler = dict(type='InfiniteSampler', shuffle=False)
    with naming_config(cfg):
        loader = Runner.build_dataloader(settings, seed=0)
    if len(loader.dataset) == 0:
        raise ValueError(f'{cfg.filename}: {LOADERS[work]} has no image that can be used: check data_root')
    return loader


def batches_of(cfg: Config, work: str, batch: int, number: int) -> list[dict[str, Any]]:
    """Load some batches in this process.

    Args:
        cfg: From :func:`load_with_data`.
        work: ``'training'`` or ``'inference'``.
        batch: Images at once.
        number: Of batches.

    Returns:
        Batches as models take them in ``train_step`` and ``test_step``.
    """
    batches: Iterator[dict[str, Any]] = iter(build_loader(cfg, work, batch, workers=0))
    return [next(batches) for _ in range(number)]
