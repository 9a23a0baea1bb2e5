"""Kept predictions are those of the predictor, for every threshold."""

import numpy as np
import pytest


@pytest.mark.parametrize('threshold', [0.05, 0.6, 1.0])
def test_instances_come_back_as_predicted_with_a_threshold(detector, detected, photo, threshold, monkeypatch):
    monkeypatch.setattr(detector, 'score_thr', threshold)
    (expected,) = detector([str(photo)])
    found = detected.restore(threshold)
    for name in ('labels', 'scores', 'boxes', 'masks'):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.overlay(), expected.overlay())


def test_the_thresholds_of_the_test_above_leave_different_numbers(detected):
    numbers = [int((detected.scores >= threshold).sum()) for threshold in (0.05, 0.6, 1.0)]
    assert numbers[0] > numbers[1] > numbers[2] == 0


def test_label_maps_come_back(segmentor, segmented, photo):
    (expected,) = segmentor([str(photo)])
    found = segmented.restore(0.9)  # thresholds are for detectors
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.overlay(), expected.overlay())
    assert segmented.labels.dtype == np.int16 and segmented.mask(0) is None


def test_a_palette_takes_the_place_of_the_models(segmented):
    grey = tuple((10 * i, 10 * i, 10 * i) for i in range(9))
    assert segmented.restore(palette=grey).info.palette == grey
    assert segmented.info.palette != grey
