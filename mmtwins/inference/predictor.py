"""Predictions for images and videos: MMSegmentation's and MMDetection's own inferencers, fed file by file.

The inferencers build the model and its test pipeline, prepare images and predict. This module adds: any public Twins
checkpoint, checked against the config as by ``mmtwins test``; configs whose test pipeline loads annotations; files that
cannot be read are skipped; results come one by one.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement

from ..datasets.dataset_info import check_classes, dataset_info, metainfo_of, validations_of
from ..engine.checks import check_device
from ..engine.config import load_config
from ..engine.reading import last_reading
from ..weights.applying import load_weights
from ..weights.formats import unwrap
from ..weights.loading import load_safely, naming_checkpoint
from .inferencers import build_inferencer, prepare_config
from .pictures import UNREADABLE, note_on, unreadable
from .result import Result
from .sources import Skip, find_sources, is_video, read_video


def infer(
    config: str | Path,
    checkpoint: str | Path,
    images: str | Path | np.ndarray | Iterable[str | Path | np.ndarray],
    *,
    device: str | None = None,
    batch_size: int = 1,
    score_thr: float = 0.3,
    cfg_options: dict[str, Any] | None = None,
    on_skip: Skip | None = None,
) -> Iterator[Result]:
    """Predict on images with a trained model: ``for result in mmtwins.infer(config, checkpoint, 'photos'): ...``

    The call checks the arguments and loads the model. Images are read as their results are asked for. To call it several
    times with one model, keep a :class:`Predictor`.

    Args:
        config: Config file of MMSegmentation or MMDetection.
        checkpoint: File, URL or ``hf-hub:`` reference of a model trained with it.
        images: An image, a folder with all folders in it, a glob pattern or a video; an array (H, W, 3) uint8 in BGR
            order, as OpenCV reads it; or several of these.
        device: Such as ``'cpu'`` or ``'cuda:0'``; None takes a GPU if there is one.
        batch_size: Images predicted on together. Only images that are equally large after preparation are, and so
            nothing is padded for it.
        score_thr: A detector's instances with a lower score are left out.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.
        on_skip: Called with the name of what cannot be read or predicted on, and the reason; None warns.

    Returns:
        The results, in the order of the images; files of a folder or pattern by name.

    Raises:
        FileNotFoundError: The config, the checkpoint or ``images`` does not exist, or a folder is empty.
        ImportError: The config needs a library that is not installed.
        ValueError: The config or checkpoint is not fit for predictions, they do not fit each other, or an argument is out
            of range.
    """
    sources = find_sources(images)
    return Predictor(config, checkpoint, device, score_thr, cfg_options)(sources, batch_size, on_skip)


class Predictor:
    """A trained model that predicts on images. Arguments and errors are those of :func:`infer`.

    Attributes:
        inferencer: ``MMSegInferencer`` or ``DetInferencer``; ``inferencer.model`` is the model.
        info: Classes and colours.
        is_detector: Whether it predicts instances.
        checkpoint: Name of the checkpoint, as it was given.
        validations: Last value of each validation metric that the checkpoint holds, by the metric's name.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        score_thr: float = 0.3,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr={score_thr}: must be from 0 to 1')
        device = check_device(device)
        cfg = load_config(str(config), cfg_options)
        self.score_thr = score_thr
        self.is_detector = prepare_config(cfg, config) == 'mmdet'
        content = load_safely(str(checkpoint))
        with naming_checkpoint(checkpoint):
            unwrap(content)
        self.checkpoint, self.validations = str(checkpoint), validations_of(content)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            self.info = dataset_info(cfg, metainfo_of(content))
        self.inferencer = build_inferencer(cfg, device, self.info)
        model = self.inferencer.model
        with naming_checkpoint(checkpoint):
            load_weights(model, content)
            check_classes(model, self.info)
        model.dataset_meta = dict(classes=self.info.classes, palette=self.info.palette)
        self._loader = next(t for t in self.inferencer.pipeline.transforms if type(t).__name__ == 'InferencerLoader')

    def __call__(
        self, sources: Sequence[str | np.ndarray], batch_size: int = 1, on_skip: Skip | None = None
    ) -> Iterator[Result]:
        """Predict on files and arrays, as :func:`find_sources` gives them; see :func:`infer`."""
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: must be at least 1')
        for source in sources:
            if isinstance(source, np.ndarray) and (source.ndim != 3 or source.dtype != np.uint8):
                raise ValueError(
                    f'an array of shape {source.shape} and type {source.dtype} is no image: it must be '
                    '(height, width, 3) uint8, in BGR order'
                )
        return self._predict(sources, batch_size, on_skip or _warn)

    def read(self, path: str) -> np.ndarray:
        """Read an image as the config's test pipeline does.

        Returns:
            (H, W, 3) BGR uint8, unless the config says otherwise.

        Raises:
            ValueError: It cannot be read; the message is the reason.
        """
        try:
            image = self._loader(path)['img']
        except Exception as error:  # a damaged file fails anywhere in a decoder
            reason = _reason(error).removeprefix(f'{path} is ')
            raise ValueError(reason if reason != UNREADABLE else unreadable(path)) from None
        reading = last_reading(path)
        if reading is not None and reading.fault:
            raise ValueError(f'{reading.fault.removeprefix("is ")}: copy or download it again')
        note = note_on(path, image)
        if note:
            warnings.warn(f'{path} {note}', stacklevel=4)
        return image

    def _predict(self, sources: Sequence[str | np.ndarray], batch_size: int, on_skip: Skip) -> Iterator[Result]:
        """Prepare a few batches' worth of images, predict on those of equal size together, yield in order."""
        waiting: list[_Prepared] = []
        for prepared in self._prepare_all(sources, on_skip):
            waiting.append(prepared)
            if len(waiting) >= (1 if batch_size == 1 else 8 * batch_size):
                yield from self._finish(waiting, batch_size, on_skip)
                waiting = []
        yield from self._finish(waiting, batch_size, on_skip)

    def _prepare_all(self, sources: Sequence[str | np.ndarray], on_skip: Skip) -> Iterator['_Prepared']:
        for path, frame, image in self._read(sources, on_skip):
            try:
                yield _Prepared(path, frame, image, self.inferencer.pipeline(image))
            except _image_errors() as error:
                on_skip(_name(path, frame), _reason(error))

    def _read(self, sources: Sequence[str | np.ndarray], on_skip: Skip) -> Iterator[tuple]:
        """Yield path, number of the frame and pixels of every image and frame that can be read."""
        for source in sources:
            if isinstance(source, np.ndarray):
                yield None, None, source
            elif is_video(source):
                for number, frame in enumerate(read_video(source, on_skip), 1):
                    yield source, number, frame
            else:
                try:
                    yield source, None, self.read(source)
                except ValueError as error:
                    on_skip(source, str(error))

    def _finish(self, waiting: Sequence['_Prepared'], batch_size: int, on_skip: Skip) -> Iterator[Result]:
        sizes: dict[tuple, list[int]] = {}
        for i, prepared in enumerate(waiting):
            sizes.setdefault(tuple(prepared.data['inputs'].shape), []).append(i)
        samples: dict[int, Any] = {}
        for indices in sizes.values():
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                samples.update(zip(batch, self._forward([waiting[i] for i in batch])))
        for i, prepared in enumerate(waiting):
            sample = samples[i]
            if isinstance(sample, Exception):
                on_skip(_name(prepared.path, prepared.frame), _reason(sample))
                continue
            yield Result(
                prepared.path, prepared.frame, _to_rgb(prepared.image), self._trim(sample, prepared), self.info
            )

    def _forward(self, batch: Sequence['_Prepared']) -> list:
        """A data sample for each image of a batch, or the reason why there is none."""
        try:
            return self.inferencer.forward(self.inferencer.collate_fn([deepcopy(prepared.data) for prepared in batch]))
        except _image_errors() as error:
            if len(batch) == 1:
                return [error]
        return [self._forward([prepared])[0] for prepared in batch]

    def _trim(self, sample: BaseDataElement, prepared: '_Prepared') -> BaseDataElement:
        """Move a data sample to the CPU, without logits and annotations, which only take memory."""
        for key in ('seg_logits', 'gt_instances', 'ignored_instances', 'gt_sem_seg'):
            if key in sample:
                delattr(sample, key)
        if 'pred_instances' in sample:
            found = sample.pred_instances
            found = found[found.scores >= self.score_thr]
            sample.pred_instances = found[found.scores.argsort(descending=True)]
        elif 'pred_sem_seg' not in sample:
            raise ValueError(
                f'{type(self.inferencer.model).__name__} predicts {", ".join(sample.keys())}, neither a segmentation nor '
                'instances'
            )
        sample.set_metainfo(dict(img_path=prepared.path))
        return sample.cpu()


@dataclass
class _Prepared:
    """An image, and what the test pipeline made of it."""

    path: str | None
    frame: int | None
    image: np.ndarray
    data: dict


def _warn(name: str, reason: str) -> None:
    warnings.warn(f'{name} skipped: {reason}', stacklevel=3)


def _name(path: str | None, frame: int | None) -> str:
    name = path or 'an array'
    return name if frame is None else f'{name}, frame {frame}'


def _reason(error: Exception) -> str:
    """One line that says why an image is skipped."""
    if isinstance(error, AssertionError) or type(error).__module__.startswith('cv2'):
        return UNREADABLE
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _image_errors() -> tuple:
    """The errors that an image of unsuitable size raises; all others are faults and are raised."""
    return ValueError, cv2.error, torch.cuda.OutOfMemoryError


def _to_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1].astype(np.uint8))
