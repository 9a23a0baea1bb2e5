"""Read image, prediction and truth of a validation sample, small enough to keep until they are drawn."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..figures.examples import Example, Instances

SIDE = 512  # pixels, of the longer side of what is kept
MIN_SCORE = 0.3


def read_example(sample: Any, given: Any, dataset: Any, min_score: float = MIN_SCORE) -> 'Example | None':
    """Read the image, the prediction and the truth of a sample.

    Args:
        sample: Data sample with a prediction, ``SegDataSample`` or ``DetDataSample``.
        given: The sample as the data loader gave it, which has the truth of a detector; or None.
        dataset: Validation data set. Its pipeline shows whether true boxes are in pixels of the resized image.
        min_score: Detections with a lower score, 0 to 1, are left out.

    Returns:
        Image, truth and prediction, reduced so that the longer side has at most 512 pixels; None for samples of other
        libraries.

    Raises:
        OSError: The image cannot be read.
    """
    import mmcv
    from mmengine.fileio import get

    from ..figures.examples import Example

    is_map, is_detection = hasattr(sample, 'pred_sem_seg'), hasattr(sample, 'pred_instances')
    if not (is_map or is_detection) or not hasattr(sample, 'img_path'):
        return None
    image = mmcv.imfrombytes(get(sample.img_path), channel_order='rgb')
    height, width = image.shape[:2]
    factor = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    small = mmcv.imresize(image, size[::-1], interpolation='area') if factor < 1 else image
    if is_map:
        truth = sample.gt_sem_seg.data if hasattr(sample, 'gt_sem_seg') else None
        return Example(
            small,
            None if truth is None else _resized(np.asarray(truth.cpu())[0], size),
            _resized(np.asarray(sample.pred_sem_seg.data.cpu())[0], size),
        )
    found = sample.pred_instances
    found = found[found.scores >= min_score].cpu().numpy()
    prediction = _instances(found.get('masks'), found.bboxes, found.labels, (height, width), size, found.scores)
    truth = None
    if hasattr(given, 'gt_instances') and 'labels' in given.gt_instances:
        objects = given.gt_instances
        boxes = np.asarray(getattr(objects.bboxes, 'tensor', objects.bboxes), float)
        if _is_resized_after_annotations(dataset):
            boxes = boxes / np.tile(np.asarray(sample.scale_factor, float), 2)
        masks = objects.masks.to_ndarray() if 'masks' in objects and not prediction.are_boxes else None
        truth = _instances(masks, boxes, np.asarray(objects.labels), (height, width), size)
    return Example(small, truth, prediction)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map or mask (H, W) at another size, by the nearest value."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, values.shape))
    return values[rows[:, None], columns]


def _instances(
    masks: Any,
    boxes: np.ndarray,
    labels: np.ndarray,
    whole: tuple[int, int],
    size: tuple[int, int],
    scores: np.ndarray | None = None,
) -> 'Instances':
    """Masks, or else boxes in pixels of the whole image, at another size."""
    from ..figures.examples import Instances

    labels = np.asarray(labels, int)
    small = np.zeros((len(labels), *size), bool)
    if masks is not None:
        for new, mask in zip(small, np.asarray(masks)):
            new[:] = _resized(mask, size) > 0
        return Instances(small, labels, scores)
    for new, box in zip(small, np.asarray(boxes, float)):
        left, right = (round(x * size[1] / whole[1]) for x in box[[0, 2]])
        top, bottom = (round(y * size[0] / whole[0]) for y in box[[1, 3]])
        new[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    return Instances(small, labels, scores, are_boxes=True)


def _is_resized_after_annotations(dataset: Any) -> bool:
    """Whether the boxes of the truth are in pixels of the resized image."""
    pipeline = getattr(dataset, 'pipeline', None)
    names = [type(step).__name__ for step in getattr(pipeline, 'transforms', None) or []]
    loads = [place for place, name in enumerate(names) if name.startswith('LoadAnnotations')]
    return bool(loads) and any('Resize' in name for name in names[loads[-1] :])
