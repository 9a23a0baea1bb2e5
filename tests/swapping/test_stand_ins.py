"""What stands in for operators without code for CPUs."""

import pytest
import torch

from mmtwins.swapping.stand_ins import reassemble, stand_ins


def test_pixels_are_weighted_sums_of_the_neighbours_of_their_source() -> None:
    torch.manual_seed(0)
    features, masks = torch.randn(2, 4, 3, 5), torch.randn(2, 2 * 9, 6, 10)
    out = reassemble(features, masks, 3, 2, 2)
    assert out.shape == (2, 4, 6, 10)
    padded = torch.nn.functional.pad(features, (1, 1, 1, 1))
    for b, c, y, x in ((0, 0, 0, 0), (1, 1, 5, 9), (0, 2, 3, 4), (1, 3, 2, 7)):
        square = padded[b, c, y // 2 : y // 2 + 3, x // 2 : x // 2 + 3].flatten()
        first = c // 2 * 9
        assert out[b, c, y, x] == pytest.approx(float(square @ masks[b, first : first + 9, y, x]), abs=1e-5)


def test_what_is_replaced_is_put_back() -> None:
    heads, carafe = pytest.importorskip('mmdet.models.dense_heads'), pytest.importorskip('mmcv.ops.carafe')
    before = carafe.carafe
    with stand_ins():
        assert carafe.carafe is reassemble
        assert heads.SSDHead.loss_cls is None
    assert carafe.carafe is before
    assert not hasattr(heads.SSDHead, 'loss_cls')
