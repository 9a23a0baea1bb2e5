"""Data transforms that mmseg and mmdet lack."""

import numpy as np
from mmengine.registry import TRANSFORMS

IGNORE_LABEL = 255


@TRANSFORMS.register_module()
class CheckLabels:
    """Refuse a segmentation map with a label that the model has no class for.

    Goes right after ``LoadAnnotations``; without it such a label ends in an index error of the loss, on a GPU in a
    device assertion that names no file.

    Args:
        num_classes: Classes of the data set, not counting the ignored label 255.

    Raises:
        ValueError: A pixel is neither a class nor ignored.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, results: dict) -> dict:
        if 'gt_seg_map' not in results:
            return results
        counts = np.bincount(results['gt_seg_map'].ravel(), minlength=IGNORE_LABEL + 1)
        labels = np.flatnonzero(counts)
        wrong = labels[(labels >= self.num_classes) & (labels != IGNORE_LABEL)]
        if wrong.size:
            shift = int(results.get('reduce_zero_label') or 0)  # MMSegmentation has taken 1 off the file's labels
            ignored = 'besides 0 = other' if shift else f'besides {IGNORE_LABEL} = ignored'
            raise ValueError(
                f'{results.get("seg_map_path")} has the label {wrong[0] + shift}, but the {self.num_classes} classes '
                f'are {shift} to {self.num_classes - 1 + shift} {ignored}: correct the file, or the number of classes'
            )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes})'
