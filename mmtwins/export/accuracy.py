"""The accuracy of a segmentor in PyTorch, in ONNX Runtime, and there in int8."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from torch import Tensor

from ..engine.model import build_model
from .exportable import build_exportable
from .int8 import quantize
from .runtimes import Runner, as_runner, open_file, write_file

CALIBRATION = 64  # training images
EXPORTER = 'onnx'


def measure_accuracy(
    cfg: Config, checkpoint: str, height: int, width: int, step: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Evaluate a segmentor on the validation images of its config, on one thread.

    Args:
        cfg: Of a segmentor whose images all have one size.
        checkpoint: Its weights.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        step: Called after each of the three evaluations.

    Returns:
        For ``eager``, ``onnx`` and ``int8``: ``mIoU`` from 0 to 100, processor time of an image in ``seconds``, ``megabytes``
        of the file (0 for ``eager``), and ``images``. ``int8`` is calibrated with :data:`CALIBRATION` training images.
    """
    torch.set_num_threads(1)
    model: Any = build_exportable(cfg, checkpoint)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, name, 'model.onnx') for name in ('onnx', 'int8')}
        for file in files.values():
            file.parent.mkdir()
        write_file(model, files['onnx'], EXPORTER, height, width, dynamic=False)
        calibration = (images.numpy() for images, _ in _samples(cfg, 'train', CALIBRATION))
        quantize(files['onnx'], files['int8'], calibration)
        for name in ('eager', 'onnx', 'int8'):
            found[name] = _evaluate(cfg, open_file(files[name], 'onnx') if name in files else as_runner(model))
            parts = files[name].parent.iterdir() if name in files else ()
            found[name]['megabytes'] = round(sum(part.stat().st_size for part in parts) / 1e6, 2)
            step()
    return found


def _evaluate(cfg: Config, run: Runner) -> dict[str, float]:
    from mmseg.evaluation import IoUMetric

    areas, seconds = [], []
    for images, labels in _samples(cfg, 'val'):
        start = time.process_time()
        (logits,) = run(images)
        seconds.append(time.process_time() - start)
        areas.append(IoUMetric.intersect_and_union(logits[0].argmax(0), labels, logits.shape[1], 255))
    metrics = IoUMetric.total_area_to_metrics(*map(sum, zip(*areas)), metrics=['mIoU'])
    return dict(
        mIoU=round(100 * float(np.nanmean(metrics['IoU'])), 2),
        seconds=round(float(np.median(seconds)), 5),
        images=len(areas),
    )


def _samples(cfg: Config, split: str, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (1, 3, H, W) and labels (H, W) of a data set of the config, as at test time."""
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        settings = {**cfg[f'{split}_dataloader'].dataset, 'pipeline': cfg.val_dataloader.dataset.pipeline}
        dataset = DATASETS.build({'_scope_': cfg.get('default_scope'), **settings})
        preprocessor: Any = build_model(cfg, cfg.model.data_preprocessor)
        for i in range(len(dataset) if count is None else min(count, len(dataset))):
            data = dataset[i]
            batch = preprocessor(dict(inputs=[data['inputs']], data_samples=[data['data_samples']]), False)
            yield batch['inputs'], data['data_samples'].gt_sem_seg.data[0]
