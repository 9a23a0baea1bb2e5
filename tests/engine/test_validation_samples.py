"""Images, predictions and truths of a validation, at the size in which they are drawn."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from pictures import write_image

from mmtwins.engine.validation_samples import read_example

mmseg_structures = pytest.importorskip('mmseg.structures')
mmdet_structures = pytest.importorskip('mmdet.structures')
BitmapMasks = pytest.importorskip('mmdet.structures.mask').BitmapMasks


class Resize:
    """Named as the transform."""


class LoadAnnotations:
    """Named as the transform."""


def dataset_of(*steps: object) -> SimpleNamespace:
    return SimpleNamespace(pipeline=SimpleNamespace(transforms=list(steps)))


@pytest.fixture
def file(tmp_path: Path) -> str:
    """1024 x 256 pixels: the left half red, the right half blue, in OpenCV's order of channels."""
    image = np.zeros((256, 1024, 3), np.uint8)
    image[:, :512, 2] = image[:, 512:, 0] = 255
    return write_image(tmp_path / 'a.png', image)


def test_a_label_map_and_its_image_are_made_smaller_together(file: str) -> None:
    truth = torch.zeros(1, 256, 1024, dtype=torch.long)
    truth[..., 512:] = 255
    found = torch.zeros_like(truth)
    found[:, 128:] = 1
    sample = mmseg_structures.SegDataSample(metainfo=dict(img_path=file))
    sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=found)
    example = read_example(sample, None, None)
    assert example.image.shape == (128, 512, 3) and example.truth.shape == example.prediction.shape == (128, 512)
    assert tuple(example.image[0, 0]) == (255, 0, 0) and tuple(example.image[0, -1]) == (0, 0, 255)
    assert (example.truth[:, :256] == 0).all() and (example.truth[:, 256:] == 255).all()
    assert (example.prediction[:64] == 0).all() and (example.prediction[64:] == 1).all()
    del sample.gt_sem_seg
    assert read_example(sample, None, None).truth is None


@pytest.mark.parametrize('steps', [[LoadAnnotations(), Resize()], [Resize(), LoadAnnotations()]])
@pytest.mark.parametrize('with_masks', [True, False])
def test_instances_and_their_truth_are_made_smaller_too(steps: list, with_masks: bool, file: str) -> None:
    """Boxes of the truth are in pixels of the resized image where it was resized after them."""
    mask = np.zeros((2, 256, 1024), bool)
    mask[0, 64:128, 256:512], mask[1, :8, :8] = True, True
    boxes = torch.tensor([[256.0, 64, 512, 128], [0, 0, 8, 8]])
    sample = mmdet_structures.DetDataSample(metainfo=dict(img_path=file, scale_factor=(0.5, 0.25)))
    sample.pred_instances = InstanceData(bboxes=boxes, scores=torch.tensor([0.9, 0.1]), labels=torch.tensor([1, 0]))
    given = mmdet_structures.DetDataSample()
    resized = boxes * torch.tensor([0.5, 0.25, 0.5, 0.25]) if isinstance(steps[0], LoadAnnotations) else boxes
    given.gt_instances = InstanceData(bboxes=resized, labels=torch.tensor([1, 0]))
    if with_masks:
        sample.pred_instances.masks = torch.from_numpy(mask)
        given.gt_instances.masks = BitmapMasks(mask.astype(np.uint8), 256, 1024)
    example = read_example(sample, given, dataset_of(*steps))
    assert example.prediction.labels.tolist() == [1] and example.prediction.scores.tolist() == pytest.approx([0.9])
    assert example.truth.labels.tolist() == [1, 0] and example.truth.scores is None
    assert example.truth.are_boxes is example.prediction.are_boxes is (not with_masks)
    for instances in (example.prediction, example.truth):
        rows, columns = np.nonzero(instances.masks[0])
        assert instances.masks.shape[1:] == (128, 512)
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 63, 128, 255)
    assert read_example(sample, None, dataset_of()).truth is None


def test_what_is_no_data_sample_and_an_image_that_is_gone(tmp_path: Path) -> None:
    assert read_example(torch.zeros(3), None, None) is None
    sample = mmseg_structures.SegDataSample(metainfo=dict(img_path=str(tmp_path / 'gone.png')))
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 4, 4))
    with pytest.raises(FileNotFoundError):
        read_example(sample, None, None)
