"""What a result says of itself."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmtwins.datasets.dataset_info import DatasetInfo
from mmtwins.inference.overlay import draw_instances, draw_segmentation
from mmtwins.inference.result import Result

INFO = DatasetInfo(('grass', 'sand', 'ball'), ((0, 255, 0), (200, 200, 0), (255, 0, 0)))
IMAGE = np.full((48, 64, 3), 100, np.uint8)


@pytest.fixture
def segmentation() -> Result:
    sample = BaseDataElement()
    sample.pred_sem_seg = PixelData(data=torch.arange(2).repeat(1, 48, 32))
    return Result('photos/a.jpg', None, IMAGE, sample, INFO)


@pytest.fixture
def detection() -> Result:
    sample = BaseDataElement()
    boxes, masks = torch.tensor([[2.0, 3, 30, 20]]), torch.zeros(1, 48, 64, dtype=torch.bool)
    sample.pred_instances = InstanceData(
        labels=torch.tensor([2]), scores=torch.tensor([0.75]), bboxes=boxes, masks=masks
    )
    return Result('clip.mp4', 7, IMAGE, sample, INFO)


def test_a_result_is_shown_in_one_short_line(segmentation, detection) -> None:
    assert repr(segmentation) == '<Result: photos/a.jpg, 48 x 64 pixels, 2 of 3 classes>'
    assert repr(detection) == '<Result: clip.mp4, frame 7, 48 x 64 pixels, 1 instances>'
    assert repr(Result(None, None, IMAGE, segmentation.sample, INFO)).startswith('<Result: an array, ')


def test_values_are_arrays(segmentation, detection) -> None:
    assert segmentation.is_segmentation and not detection.is_segmentation
    assert (
        segmentation.labels.shape == (48, 64)
        and segmentation.labels[:, ::2].max() == 0 < segmentation.labels[:, 1].min()
    )
    assert detection.labels.tolist() == [2] and detection.scores.tolist() == [0.75]
    assert detection.boxes.tolist() == [[2, 3, 30, 20]] and detection.masks.shape == (1, 48, 64)
    del detection.sample.pred_instances.masks
    assert detection.masks is None


def test_the_overlay_is_that_of_its_kind(segmentation, detection) -> None:
    expected = draw_segmentation(IMAGE, segmentation.labels, INFO, True)
    np.testing.assert_array_equal(segmentation.overlay(fixed_legend=True), expected)
    values = (detection.labels, detection.scores, detection.boxes, detection.masks)
    np.testing.assert_array_equal(detection.overlay(), draw_instances(IMAGE, *values, INFO))
