"""Whether models run before and after a swap."""

import copy

import pytest
from mmengine.config import Config

from mmtwins.swapping.refusing import CannotSwap
from mmtwins.swapping.running import check_runs, count_macs

pytest.importorskip('mmseg')
pytest.importorskip('mmcv')

CFG = Config(
    dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            backbone=dict(type='TwinsSVTBackbone'),
            decode_head=dict(type='FCNHead', in_channels=512, channels=8, num_classes=2, num_convs=1),
        ),
    )
)
PATH = ('model',)


def test_a_model_that_no_longer_runs_is_refused() -> None:
    wrong = copy.deepcopy(CFG)
    wrong.model.decode_head.in_channels = 2048
    check_runs(CFG, CFG, PATH)
    with pytest.raises(CannotSwap, match=r'with Twins it does not run: EncoderDecoder .*RuntimeError'):
        check_runs(CFG, wrong, PATH)
    check_runs(wrong, wrong, PATH)  # it did not before, which says nothing about Twins


def test_macs_are_counted_for_the_part_with_the_backbone() -> None:
    wrapped = Config(dict(default_scope='mmseg', model=dict(type='Unknown', inner=CFG.model)))
    small, large = count_macs(CFG, PATH, 64, 64), count_macs(wrapped, ('model', 'inner'), 128, 128)
    assert small is not None
    assert large is not None
    assert 3.9 < large / small < 4.4
    assert count_macs(wrapped, PATH, 64, 64) is None
