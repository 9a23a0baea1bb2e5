"""What the outputs of a model mean: its classes, their colours, and how label images number them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
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


def metainfo_of(checkpoint: dict) -> dict:
    """What MMEngine noted of the data set in a checkpoint; empty in one of another program."""
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    found = meta.get('dataset_meta') or {key.lower(): meta[key] for key in ('CLASSES', 'PALETTE') if key in meta}
    return {str(key).lower(): value for key, value in found.items()} if isinstance(found, dict) else {}


def validations_of(checkpoint: dict) -> dict[str, float]:
    """Read the metrics of a training's validations that MMEngine recorded in a checkpoint.

    Args:
        checkpoint: Content of the file.

    Returns:
        Last value of each metric, such as ``'mIoU'``; empty if the checkpoint has none.
    """
    hub = checkpoint.get('message_hub')
    scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
    found = {}
    for name, history in scalars.items() if isinstance(scalars, dict) else ():
        values = history.data[0] if isinstance(history, HistoryBuffer) else np.zeros(0)
        if str(name).startswith('val/') and len(values):
            found[str(name).removeprefix('val/')] = float(values[-1])
    return found


def dataset_info(cfg: Config, noted: dict) -> DatasetInfo:
    """Find classes and colours in a checkpoint's notes, else in the config's test set.

    Args:
        cfg: After :func:`mmtwins.inference.inferencers.prepare_config`; its test set is built without loading it.
        noted: See :func:`metainfo_of`.

    Returns:
        Classes and colours; different colours if neither has any.

    Raises:
        ValueError: Neither has classes.
    """
    dataset = _build_test_set(cfg)
    classes = _names(noted, dataset)
    if not classes:
        raise ValueError(
            'neither the checkpoint nor the config names the classes: add '
            "test_dataloader.dataset.metainfo = dict(classes=('a', 'b', ...))"
        )
    palette = next(
        (p for p in (noted.get('palette'), dataset.metainfo.get('palette')) if _is_palette(p, classes)), None
    )
    if palette is None:
        from matplotlib import colormaps

        palette = (255 * colormaps['viridis'](np.linspace(0, 1, len(classes)))[:, :3]).astype(int).tolist()
    file = getattr(dataset, 'ann_file', None) if cfg.default_scope == 'mmdet' else None
    return DatasetInfo(
        classes,
        tuple((int(red), int(green), int(blue)) for red, green, blue in palette[: len(classes)]),
        bool(getattr(dataset, 'reduce_zero_label', False)),
        Path(file) if file else None,
    )


def named_classes(cfg: Config, noted: dict) -> tuple[str, ...]:
    """Names of the classes as :func:`dataset_info` finds them, of a config that may have no test set; empty without any."""
    has_test_set = bool((cfg.get('test_dataloader') or {}).get('dataset'))
    return _names(noted, _build_test_set(cfg) if has_test_set and not noted.get('classes') else None)


def _build_test_set(cfg: Config) -> Any:
    """The test set of a config, not loaded."""
    return DATASETS.build({**deepcopy(cfg.test_dataloader.dataset), 'lazy_init': True, 'pipeline': []})


def _names(noted: dict, dataset: Any) -> tuple[str, ...]:
    """Names of the classes in a checkpoint's notes, else those of a data set, which may be None."""
    classes = noted.get('classes') or (dataset.metainfo.get('classes') if dataset is not None else None) or ()
    if not isinstance(classes, str | Sequence | np.ndarray):
        raise ValueError(f'the names of the classes are {type(classes).__name__}, not a list of names')
    return (classes,) if isinstance(classes, str) else tuple(map(str, classes))


def _is_palette(palette: Any, classes: Sequence[str]) -> bool:
    colours = palette if isinstance(palette, list | tuple | np.ndarray) else ()
    return len(colours) >= len(classes) and all(map(_is_colour, colours))


def _is_colour(colour: Any) -> bool:
    is_list = isinstance(colour, list | tuple | np.ndarray) and len(colour) == 3
    return is_list and all(isinstance(value, int | float | np.number) for value in colour)


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
