"""Predictions as the page keeps them between clicks: compressed, and restored for a score threshold."""

from dataclasses import replace

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools.mask import decode

from ..inference.result import Result
from ..masks import encode_mask


class KeptResult:
    """A :class:`Result` with its masks as run lengths and its label map in 16 bits.

    A detector gives up to a hundred masks of the size of the image. A server cannot keep these for several users.

    Args:
        result: Prediction for an image file.

    Attributes:
        path: File of the image.
        image: (H, W, 3) RGB uint8.
        info: Classes and colours.
        is_segmentation: Whether there is a label map; otherwise there are instances.
        labels: Class indices: (H, W) of a segmentation, (N,) of a detection.
        scores: (N,), 0 to 1, the highest first; empty for a segmentation.
        boxes: (N, 4), left, top, right and bottom in pixels; empty for a segmentation.
    """

    def __init__(self, result: Result) -> None:
        self.path, self.image, self.info = result.path, result.image, result.info
        self.is_segmentation = result.is_segmentation
        self.labels = result.labels.astype(np.int16)
        self.scores, self.boxes = np.zeros(0, np.float32), np.zeros((0, 4), np.float32)
        self._codes: list[dict] | None = None
        if not self.is_segmentation:
            self.scores, self.boxes = result.scores, result.boxes
            self._codes = None if result.masks is None else [encode_mask(mask) for mask in result.masks]

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of an instance, (H, W) bool; None if the detector finds only boxes."""
        return None if self._codes is None else decode(self._codes[index]).view(bool)

    def restore(self, threshold: float = 0.0, palette: tuple[tuple[int, int, int], ...] | None = None) -> Result:
        """Restore the result, as the predictor gives it.

        Args:
            threshold: Instances with a lower score are left out, 0 to 1.
            palette: RGB colour in 0..255 of each class; None takes the model's.

        Returns:
            The result.
        """
        info = self.info if palette is None else replace(self.info, palette=palette)
        sample = BaseDataElement()
        labels = torch.from_numpy(self.labels.astype(np.int64))
        if self.is_segmentation:
            sample.pred_sem_seg = PixelData(data=labels[None])
            return Result(self.path, None, self.image, sample, info)
        scores, boxes = torch.from_numpy(self.scores), torch.from_numpy(self.boxes)
        kept = scores >= threshold
        found = InstanceData(labels=labels[kept], scores=scores[kept], bboxes=boxes[kept])
        if self._codes is not None:
            masks = [decode(code).view(bool) for code, keep in zip(self._codes, kept.tolist()) if keep]
            found.masks = torch.from_numpy(np.array(masks).reshape(-1, *self.image.shape[:2]))
        sample.pred_instances = found
        return Result(self.path, None, self.image, sample, info)
