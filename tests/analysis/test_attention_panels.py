"""Where in an image keys, windows and tokens lie."""

import numpy as np
import pytest

from mmtwins.analysis.attention_maps import AttentionMap
from mmtwins.analysis.attention_panels import Box, pick, shown, tokens_box, view, without_key
from mmtwins.analysis.inspection import Inspection
from mmtwins.models.windows import Size, as_pair


def attention(kind: str, shape: tuple[int, int], size: Size, origin: tuple[int, int] = (0, 0)) -> AttentionMap:
    weights = np.full((1, *shape), 1 / np.prod(shape), np.float32)
    return AttentionMap(2, 1, kind, (20.0, 20.0), 8, (12, 16), (2, 2), as_pair(size), origin, weights)


@pytest.fixture
def inspection() -> Inspection:
    """An image of half the size of the network's input along x, and a quarter along y."""
    return Inspection(np.zeros((24, 60, 3), np.uint8), [], {}, (96, 128), (2.0, 4.0))


def test_boxes_are_in_pixels_of_the_image(inspection) -> None:
    assert view(inspection) == Box(0, 0, 64, 24)
    assert tokens_box(inspection, 8, 1, 2, 3, 4) == Box(8, 2, 16, 6)
    assert Box(8, 2, 16, 6).extent == (8, 24, 8, 2)


def test_what_a_panel_shows_and_what_has_no_key(inspection) -> None:
    whole = attention('GSA', (3, 4), 4)
    assert shown(inspection, whole) == view(inspection) and without_key(inspection, whole) == []
    cut = attention('LSA', (5, 2), 7, origin=(7, 14))  # a window of 7 x 7 in the corner of 12 x 16 tokens
    assert shown(inspection, cut) == Box(56, 14, 28, 14)
    assert without_key(inspection, cut) == [Box(64, 14, 20, 14), Box(56, 24, 8, 4)]
    wide = attention('LSA', (3, 6), (3, 6), origin=(3, 6))
    assert shown(inspection, wide) == Box(24, 6, 24, 6) and without_key(inspection, wide) == []
    flat = attention('GSA', (4, 3), (3, 5))  # 12 x 15 of 12 x 16 tokens
    assert without_key(inspection, flat) == [Box(60, 0, 4, 24)]


def test_pick_counts_blocks_of_a_kind() -> None:
    maps = [attention('LSA', (7, 7), 7), attention('GSA', (3, 4), 4), attention('GSA', (6, 8), 2)]
    assert pick(maps, 2, (20.0, 20.0), 'GSA', 1) is maps[2] and pick(maps, 2, (20.0, 20.0), 'LSA', 1) is None
    assert pick(maps, 1, (20.0, 20.0), 'LSA') is None
