import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from mmtwins import CheckLabels


def results_with(labels: list[int], reduce_zero_label: bool) -> dict:
    seg_map = np.array([labels], dtype=np.uint8)
    return dict(gt_seg_map=seg_map, seg_map_path='a/b.png', reduce_zero_label=reduce_zero_label)


@pytest.mark.parametrize(('labels', 'reduce'), [([0, 149, 255], True), ([0, 149, 255], False), ([255], True)])
def test_classes_and_ignored_pixels_pass(labels: list[int], reduce: bool) -> None:
    results = results_with(labels, reduce)
    assert CheckLabels(num_classes=150)(results) is results


@pytest.mark.parametrize(
    ('label', 'reduce', 'message'),
    [
        (150, True, r'a/b\.png has the label 151, but the 150 classes are 1 to 150 besides 0 = other'),
        (254, True, 'has the label 255'),
        (150, False, r'a/b\.png has the label 150, but the 150 classes are 0 to 149 besides 255 = ignored'),
    ],
)
def test_a_label_without_a_class_is_refused_with_the_number_in_the_file(label: int, reduce: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckLabels(num_classes=150)(results_with([0, label], reduce))


def test_images_without_annotation_pass() -> None:
    results = dict(img_path='a.jpg')
    assert CheckLabels(num_classes=150)(results) is results


def test_resolves_from_mmseg() -> None:
    mmseg = pytest.importorskip('mmseg.registry')
    assert mmseg.TRANSFORMS.get('CheckLabels') is TRANSFORMS.get('CheckLabels') is CheckLabels
