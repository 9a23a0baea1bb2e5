"""One attention map over its image: the brightest place is the key with the largest weight."""

import numpy as np
import pytest

from mmtwins.page.asking import Model
from mmtwins.page.heat import SIDE, draw_heat


@pytest.fixture(scope='module')
def inspection(segmentor, segmented):
    return Model(segmentor).inspect(segmented, 30, 70)


def test_each_stage_kind_and_head_has_a_picture_of_its_own(inspection):
    seen = set()
    for stage, heads in ((1, 1), (2, 2), (3, 4), (4, 6)):
        for kind in ('LSA', 'GSA'):
            for head in range(heads + 1):
                heat = draw_heat(inspection, stage, kind, head)
                assert heat.picture.dtype == np.uint8 and max(heat.picture.shape[:2]) == SIDE
                assert 0 < heat.largest <= 100 and f'Stage {stage}' in heat.caption
                if heads > 1:
                    seen.add(heat.picture.tobytes())
    assert len(seen) == 2 * (3 + 5 + 7)


def test_the_largest_weight_is_named_and_where_its_key_lies(inspection):
    (found,) = (one for one in inspection.maps if (one.stage, one.kind) == (2, 'GSA'))
    weights = found.weights[1].copy()
    weights[:] = 0
    weights[1, 0] = 1
    changed = found._replace(weights=np.stack([found.weights[0], weights]))
    heat = draw_heat(inspection._replace(maps=[changed]), 2, 'GSA', 2)
    assert heat.largest == 100 and 'head 2 of 2' in heat.caption
    yellow = (heat.picture[..., 0] > 1.6 * heat.picture[..., 2].clip(1)) & (heat.picture[..., 1] > 130)
    rows, columns = np.nonzero(yellow)
    side = found.key_size[0] * found.stride  # pixels of the image, which is not resized
    scale = SIDE / 128
    assert side * scale - 2 <= np.percentile(rows, 2) and np.percentile(rows, 98) <= 2 * side * scale + 2
    assert np.percentile(columns, 98) <= side * scale + 2 and yellow.sum() > 0.5 * (side * scale) ** 2


def test_what_is_not_there_is_refused(inspection):
    with pytest.raises(ValueError, match='no head 3: choose one from 1 to 2'):
        draw_heat(inspection, 2, 'LSA', 3)
    with pytest.raises(ValueError, match='stage 7 has no local attention'):
        draw_heat(inspection, 7, 'LSA')
