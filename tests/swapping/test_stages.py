"""Which stages of Twins take the place of the old maps."""

import pytest

from mmtwins.swapping.features import Feature
from mmtwins.swapping.refusing import CannotSwap
from mmtwins.swapping.stages import ARCHS, architecture, choose_stages


def maps(*strides: int) -> list[Feature]:
    return [Feature(8, stride) for stride in strides]


@pytest.mark.parametrize(
    ('strides', 'is_segmentor', 'indices', 'stages'),
    [
        ((4, 8, 16, 32), False, (0, 1, 2, 3), (0, 1, 2, 3)),
        ((8, 16, 32), False, (1, 2, 3), (1, 2, 3)),
        ((32,), False, (3,), (3,)),
        ((16,), False, (3,), (2,)),  # dilated, for a detector: the stride stays
        ((8, 16), False, (3, 4), (1, 2)),
        ((4, 8, 8, 8), True, (0, 1, 2, 3), (0, 1, 2, 3)),  # dilated, for a segmentor: the depth stays
        ((8, 8), True, (2, 3), (2, 3)),
        ((16, 16, 16, 16), True, (2, 5, 8, 11), (0, 1, 2, 3)),
        ((16,), True, (11,), (2,)),
        ((2, 4, 8), True, (0, 1, 12), (0, 1, 3)),
    ],
)
def test_stages(strides, is_segmentor, indices, stages) -> None:
    assert choose_stages(maps(*strides), is_segmentor, dict(out_indices=indices)) == stages


@pytest.mark.parametrize(
    ('strides', 'is_segmentor', 'message'),
    [
        ((4, 8, 16, 32, 64), False, 'gives 5 maps'),
        ((16, 8, 4), True, 'not from fine to coarse'),
        ((16, 32, 64), False, 'strides 16, 32, 64, and anchors'),
        ((8, 8), False, 'strides 8, 8, and anchors'),
    ],
)
def test_strides_that_twins_does_not_have_are_refused(strides, is_segmentor, message) -> None:
    with pytest.raises(CannotSwap, match=message):
        choose_stages(maps(*strides), is_segmentor, {})


def test_architectures_have_their_published_channels() -> None:
    assert ARCHS == ('svt-s', 'svt-b', 'svt-l', 'pcpvt-s', 'pcpvt-b', 'pcpvt-l')
    channels = {arch: list(architecture(arch)[2]['embed_dims']) for arch in ARCHS}
    assert channels['svt-l'] == [128, 256, 512, 1024]
    assert channels['pcpvt-b'] == [64, 128, 320, 512]
