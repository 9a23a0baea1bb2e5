"""The top of a figure of attention."""

import numpy as np
import pytest
from test_attention_panels import attention

from mmtwins.analysis.attention_header import plan_header
from mmtwins.analysis.inspection import Inspection

pytest.importorskip('matplotlib')


def plan(height: int, width: int, *maps):
    image = np.zeros((height, width, 3), np.uint8)
    return plan_header(Inspection(image, list(maps), {}, (height, width)), 9.76)


def test_the_legend_is_beside_an_image_and_below_a_flat_one() -> None:
    local = attention('LSA', (7, 7), 7)
    for height, width, is_flat in ((100, 100, False), (300, 100, False), (100, 300, True), (50, 5000, True)):
        header = plan(height, width, local)
        left, top, wide, high = header.image
        is_beside, is_below = header.legend[0] > left + wide, header.legend[1] > top + high
        assert (is_beside, is_below) == (not is_flat, is_flat), (height, width)
        assert high >= 0.5 and wide <= 9.76 and header.height >= header.legend[1] + header.legend[3]
        assert header.note == (
            f'stretched: the image has {width} x {height} pixels' if high > wide or width > 999 else ''
        )


def test_the_legend_explains_what_there_is() -> None:
    words = [text for _, text in plan(96, 128, attention('GSA', (3, 4), 4)).signs]
    assert words == [
        'the point',
        'its token, the query',
        'sub-windows of GSA, one key each',
        'weight of a key: its colour, in %',
    ]
    both = [text for _, text in plan(90, 128, attention('GSA', (3, 4), 4), attention('LSA', (5, 2), 7, (7, 14))).signs]
    assert both[2:5] == ['its window in LSA', 'sub-windows of GSA, one key each', 'no key, or image padding']
