"""MMSegmentation's and MMDetection's inferencers, built from configs and any public Twins checkpoint."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from torch import nn


@dataclass(frozen=True)
class DatasetInfo:
    """What a model's outputs mean.

    Attributes:
        classes: Name of each class, by index.
        palette: RGB colour in 0..255 of each class.
        reduce_zero_label: Whether label images have 0 = other and class i as i + 1, as ADE20K's.
        annotation_file: COCO annotation file of the config's test set, whether there or not; None without one.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    reduce_zero_label: bool = False
    annotation_file: Path | None = None


def check_device(device: str | None) -> str:
    """The device to use, a GPU for None if there is one; raises ValueError for one that is not there."""
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


def prepare_config(cfg: Config, path: str | Path) -> str:
    """Make a config fit for :func:`build_inferencer`, in place.

    Args:
        cfg: Config, as ``load_config`` returns it.
        path: Its file, for messages.

    Returns:
        Its library, ``'mmseg'`` or ``'mmdet'``.

    Raises:
        ValueError: It is of another library, or lacks a model or how images are prepared.
    """
    library = cfg.get('default_scope')
    if library not in ('mmseg', 'mmdet'):
        raise ValueError(f'{path}: default_scope is {library!r}, predictions need mmseg or mmdet')
    if 'model' not in cfg or 'dataset' not in (cfg.get('test_dataloader') or {}):
        raise ValueError(f'{path} lacks model or test_dataloader, whose dataset says how images are prepared')
    cfg.model = cfg.model.get('module', cfg.model)  # inside a test-time augmentation wrapper
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    # The inferencers look for LoadImageFromFile by that name alone, and only MMSegmentation's drops annotations.
    steps = [dict(step) for step in dataset.get('pipeline') or [] if not _is_about_annotations(_type_of(step))]
    loaders = [step for step in steps if _type_of(step) == 'LoadImageFromFile']
    if len(loaders) != 1:
        raise ValueError(f'{path}: the pipeline of test_dataloader.dataset must have one LoadImageFromFile')
    loaders[0]['type'] = 'LoadImageFromFile'
    dataset['pipeline'] = steps
    cfg.test_dataloader.dataset = dataset
    # The config's own visualizer may report to a server.
    cfg.visualizer = dict(type='SegLocalVisualizer' if library == 'mmseg' else 'DetLocalVisualizer')
    return library


def _type_of(step: dict) -> str:
    """Name of a transform, without its scope or module."""
    kind = step['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def _is_about_annotations(kind: str) -> bool:
    return kind == 'CheckLabels' or (kind.startswith('Load') and 'Annotation' in kind)


def metainfo_of(checkpoint: dict) -> dict:
    """What MMEngine noted of the data set in a checkpoint; empty in one of another program."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    found = meta.get('dataset_meta') or {key.lower(): meta[key] for key in ('CLASSES', 'PALETTE') if key in meta}
    return {key.lower(): value for key, value in found.items()}


def dataset_info(cfg: Config, noted: dict) -> DatasetInfo:
    """Classes from a checkpoint's notes, else from the config's test set, which is not loaded."""
    dataset_cfg = {**deepcopy(cfg.test_dataloader.dataset), 'lazy_init': True, 'pipeline': []}
    dataset = DATASETS.build(dataset_cfg)
    classes = noted.get('classes') or dataset.metainfo.get('classes')
    if not classes:
        raise ValueError(
            'neither the checkpoint nor the config names the classes: add '
            "test_dataloader.dataset.metainfo = dict(classes=('a', 'b', ...))"
        )
    classes = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
    palette = next(
        (p for p in (noted.get('palette'), dataset.metainfo.get('palette')) if _is_palette(p, classes)), None
    )
    if palette is None:
        from matplotlib import colormaps

        palette = (255 * colormaps['viridis'](np.linspace(0, 1, len(classes)))[:, :3]).astype(int).tolist()
    file = getattr(dataset, 'ann_file', None) if cfg.default_scope == 'mmdet' else None
    return DatasetInfo(
        classes,
        tuple(tuple(map(int, colour)) for colour in palette[: len(classes)]),
        bool(getattr(dataset, 'reduce_zero_label', False)),
        Path(file) if file else None,
    )


def _is_palette(palette: Any, classes: Sequence[str]) -> bool:
    return isinstance(palette, list | tuple | np.ndarray) and len(palette) >= len(classes)


def build_inferencer(cfg: Config, device: str, info: DatasetInfo | None = None) -> Any:
    """Build MMSegmentation's or MMDetection's inferencer, with a model that has no weights yet.

    Args:
        cfg: Config, after :func:`prepare_config`.
        device: See :func:`check_device`.
        info: Classes and colours, for the inferencer's own pictures; None takes the library's defaults.

    Returns:
        ``MMSegInferencer`` or ``DetInferencer``.
    """
    options: dict[str, Any] = {} if info is None else dict(palette=info.palette)
    with _quiet():
        if cfg.default_scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            inferencer = MMSegInferencer(cfg, classes=info and info.classes, device=device, **options)
        else:
            from mmdet.apis import DetInferencer

            inferencer = DetInferencer(cfg, device=device, **options)
    inferencer.show_progress = False
    return inferencer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that the weights are missing, which come next, and of MMEngine's registry for collate functions."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logger.setLevel('ERROR')
        try:
            yield
        finally:
            logger.setLevel(level)


def check_classes(model: nn.Module, info: DatasetInfo) -> None:
    """Raise ValueError if a model has another number of classes than there are names."""
    head = getattr(model, 'decode_head', None) or getattr(model, 'roi_head', None) or model
    head = getattr(head, 'bbox_head', head)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    number = getattr(head, 'num_classes', None)
    if isinstance(number, int) and number != len(info.classes):
        raise ValueError(
            f'the model has {number} classes, but {len(info.classes)} are named: give the config it was trained with'
        )
