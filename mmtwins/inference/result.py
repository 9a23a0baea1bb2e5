"""The prediction for one image."""

from dataclasses import dataclass

import numpy as np
from mmengine.structures import BaseDataElement

from ..datasets.dataset_info import DatasetInfo
from .overlay import draw_instances, draw_segmentation


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The prediction for an image or for a frame of a video.

    Attributes:
        path: File, as it was named; None for an array.
        frame: Number of the frame in a video, from 1; None for an image.
        image: The image as predicted on, (H, W, 3) RGB uint8.
        sample: MMSegmentation's or MMDetection's data sample, on the CPU. A detector's has no instances with a lower score
            than was asked for; a segmentor's has no scores per class.
        info: Classes and colours.
    """

    path: str | None
    frame: int | None
    image: np.ndarray
    sample: BaseDataElement
    info: DatasetInfo

    @property
    def is_segmentation(self) -> bool:
        """Whether there is a label map; otherwise there are instances."""
        return 'pred_sem_seg' in self.sample

    @property
    def labels(self) -> np.ndarray:
        """Class indices: (H, W) of a segmentation, (N,) of a detection."""
        if self.is_segmentation:
            return self.sample.pred_sem_seg.data[0].numpy()
        return self.sample.pred_instances.labels.numpy()

    @property
    def scores(self) -> np.ndarray:
        """Scores of the instances in 0..1, (N,), highest first."""
        return self.sample.pred_instances.scores.numpy()

    @property
    def boxes(self) -> np.ndarray:
        """Boxes of the instances, (N, 4): left, top, right, bottom in pixels."""
        return self.sample.pred_instances.bboxes.numpy()

    @property
    def masks(self) -> np.ndarray | None:
        """Masks of the instances, (N, H, W) bool; None from a detector of boxes only."""
        masks = self.sample.pred_instances.get('masks')
        return None if masks is None else masks.numpy()

    def overlay(self, fixed_legend: bool = False) -> np.ndarray:
        """Paint the prediction over the image.

        Args:
            fixed_legend: Of a segmentation: give the legend the same size in every image, for videos.

        Returns:
            (H', W', 3) RGB uint8, see :func:`mmtwins.inference.overlay.draw_segmentation` and
            :func:`mmtwins.inference.overlay.draw_instances`.
        """
        if self.is_segmentation:
            return draw_segmentation(self.image, self.labels, self.info, fixed_legend)
        return draw_instances(self.image, self.labels, self.scores, self.boxes, self.masks, self.info)

    def __repr__(self) -> str:
        source = self.path or 'an array'
        source += '' if self.frame is None else f', frame {self.frame}'
        height, width = self.image.shape[:2]
        if self.is_segmentation:
            content = f'{len(np.unique(self.labels))} of {len(self.info.classes)} classes'
        else:
            content = f'{len(self.labels)} instances'
        return f'<Result: {source}, {height} x {width} pixels, {content}>'
