"""Masks in COCO's run-length code."""

import json

import numpy as np
import pytest

mask_api = pytest.importorskip('pycocotools.mask')

from mmtwins.masks import encode_mask  # noqa: E402


@pytest.mark.parametrize('share', [0, 0.1, 0.5, 1])
def test_a_mask_comes_back_from_json(share: float) -> None:
    mask = np.random.RandomState(0).random_sample((7, 5)) < share
    code = json.loads(json.dumps(encode_mask(mask)))
    assert code['size'] == [7, 5]
    np.testing.assert_array_equal(mask_api.decode(code), mask)
