"""Windows: where they lie, which padding attends, and that cutting and merging are inverse."""

import pytest
import torch

from mmtwins.models.windows import (
    WINDOW_PADDINGS,
    key_mask,
    merge_windows,
    num_windows,
    order_by_index,
    pad_to_windows,
    padding_attends,
    partition_windows,
    window_regions,
)

SIZES = [(6, 9), (7, 6), (6, 8), (7, 8), (2, 2), (1, 10), (3, 3)]


def test_windows_hold_neighbours() -> None:
    x = torch.arange(2 * 4 * 7).reshape(2, 4, 7, 1)
    regions = window_regions(4, 7, 3)
    assert [(r.top, r.left, r.height, r.width, r.side_h, r.side_w) for r in regions] == [
        (0, 0, 3, 6, 3, 3),
        (0, 6, 3, 1, 3, 1),
        (3, 0, 1, 6, 1, 3),
        (3, 6, 1, 1, 1, 1),
    ]
    whole, right, bottom, corner = (partition_windows(x, region)[..., 0].tolist() for region in regions)
    assert whole[:2] == [[0, 1, 2, 7, 8, 9, 14, 15, 16], [3, 4, 5, 10, 11, 12, 17, 18, 19]]
    assert whole[2][0] == 28  # the second image follows the first
    assert right == [[6, 13, 20], [34, 41, 48]]
    assert bottom == [[21, 22, 23], [24, 25, 26], [49, 50, 51], [52, 53, 54]]
    assert corner == [[27], [55]]


@pytest.mark.parametrize('size', SIZES)
def test_merging_is_the_inverse_of_cutting(size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 5)
    regions = window_regions(*size, 3)
    assert sum(region.num_tokens for region in regions) == size[0] * size[1]
    assert torch.equal(merge_windows([partition_windows(x, region) for region in regions], regions), x)


def test_merging_needs_the_windows_of_every_region() -> None:
    for size in ((3, 3), (4, 3)):
        regions = window_regions(*size, 3)
        parts = [partition_windows(torch.randn(1, *size, 2), region) for region in regions]
        for given in (parts[:-1], [*parts, parts[0]]):
            with pytest.raises(ValueError, match='zip'):
                merge_windows(given, regions)


@pytest.mark.parametrize(
    ('window_padding', 'attends'),
    [
        ('masked', [False, False, False, False]),
        ('zero', [False, True, True, True]),
        ('meituan', [False, True, True, False]),
    ],
)
def test_which_padding_attends(window_padding: str, attends: list[bool]) -> None:
    sizes = [(6, 9), (7, 9), (6, 10), (7, 10)]  # no axis padded, the height, the width, both
    assert [padding_attends(window_padding, *size, 3) for size in sizes] == attends


def test_padding_completes_windows_with_zeros_at_the_bottom_and_on_the_right() -> None:
    x = torch.randn(2, 4, 6, 5)
    padded = pad_to_windows(x, 3)
    assert padded.shape == (2, 6, 6, 5)
    assert torch.equal(padded[:, :4], x)
    assert not padded[:, 4:].any()
    assert torch.equal(pad_to_windows(x, 2), x)
    assert [num_windows(length, 3) for length in (1, 3, 4, 6, 7)] == [1, 1, 2, 2, 3]


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('window_padding', WINDOW_PADDINGS)
def test_the_order_by_index_and_its_mask_are_those_of_padded_windows(
    window_padding: str, size: tuple[int, int]
) -> None:
    x = torch.randn(2, *size, 5)
    order = order_by_index(2, *size, 3, x.device)
    padded = pad_to_windows(x, 3)
    region = window_regions(*padded.shape[1:3], 3)[0]
    tokens = x.flatten(0, 2)[order.source] * order.is_real[:, None]
    assert torch.equal(tokens, partition_windows(padded, region).flatten(0, 1))
    is_real = partition_windows(pad_to_windows(torch.ones(2, *size, 1), 3), region).flatten().bool()
    assert torch.equal(order.is_real, is_real)
    assert torch.equal(tokens[order.target].view(x.shape), x)
    all_attend = padding_attends(window_padding, *size, 3) or window_padding == 'zero'
    expected = torch.ones_like(is_real) if all_attend else is_real
    assert torch.equal(key_mask(window_padding, order.is_real, *size, 3), expected)
