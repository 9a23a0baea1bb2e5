"""The classes of images, predicted by a classifier of MMPreTrain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from ..datasets.dataset_info import metainfo_of, named_classes
from ..engine.checks import check_device
from ..engine.model import build_model
from ..weights.applying import load_weights
from ..weights.formats import unwrap
from ..weights.loading import load_safely, naming_checkpoint
from .sources import Skip, is_video


@dataclass(frozen=True)
class Classified:
    """The class of an image.

    Attributes:
        path: File, as it was named.
        label: Index of the class with the highest score.
        name: Of that class; its index where checkpoint and config name no classes.
        score: Of that class, in 0..1.
    """

    path: str
    label: int
    name: str
    score: float


class Classifier:
    """A trained classifier.

    Args:
        cfg: Its config, as ``load_config`` returns it.
        checkpoint: Of a training with it, or a public classifier of the same architecture.
        device: Such as ``'cpu'`` or ``'cuda:0'``; None takes a GPU if there is one.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The device is not there, the config cannot be built or says not how images are prepared, or the checkpoint
            does not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: str | None = None) -> None:
        device = check_device(device)
        if 'dataset' not in (cfg.get('test_dataloader') or {}):
            raise ValueError(f'{cfg.filename} lacks test_dataloader, whose dataset says how images are prepared')
        content = load_safely(str(checkpoint))
        with naming_checkpoint(checkpoint):
            unwrap(content)
        self.model: Any = build_model(cfg)  # a BaseModel
        with naming_checkpoint(checkpoint):
            load_weights(self.model, content)
        self.model.to(device).eval()
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            self.pipeline = Compose(cfg.test_dataloader.dataset.pipeline)
            self.classes = named_classes(cfg, metainfo_of(content))

    def __call__(self, paths: Sequence[str], batch_size: int, on_skip: Skip) -> Iterator[Classified]:
        """Predict on files.

        Args:
            paths: Images.
            batch_size: Of images predicted on together.
            on_skip: Called with the name of what cannot be read, and the reason.

        Returns:
            The classes, in the order of the images.
        """
        waiting: list[tuple[str, dict]] = []
        for path in paths:
            try:
                if is_video(path):
                    raise ValueError('a classifier predicts on images, not on videos')
                waiting.append((path, self.pipeline(dict(img_path=path))))
            except (ValueError, OSError, cv2.error) as error:
                on_skip(path, str(error).strip().splitlines()[0].removeprefix(f'{path} '))
            if len(waiting) == batch_size:
                yield from self._finish(waiting)
                waiting = []
        yield from self._finish(waiting)

    def _finish(self, waiting: Sequence[tuple[str, dict]]) -> Iterator[Classified]:
        if not waiting:
            return
        with torch.no_grad():
            samples = self.model.test_step(pseudo_collate([data for _, data in waiting]))
        for (path, _), sample in zip(waiting, samples, strict=True):
            label = int(sample.pred_label)
            name = self.classes[label] if label < len(self.classes) else str(label)
            yield Classified(path, label, name, float(sample.pred_score[label]))
