"""Whether models run before and after a swap."""

import copy

import pytest
from mmengine.config import Config
from small_segmentor import small_segmentor

from mmtwins.swapping.refusing import CannotSwap
from mmtwins.swapping.running import check_runs, holder_config

pytest.importorskip('mmseg')
pytest.importorskip('mmcv')

CFG = small_segmentor()
PATH = ('model',)


def test_a_model_that_no_longer_runs_is_refused() -> None:
    wrong = copy.deepcopy(CFG)
    wrong.model.decode_head.in_channels = 2048
    check_runs(CFG, CFG, PATH)
    with pytest.raises(CannotSwap, match=r'with Twins it does not run: EncoderDecoder .*RuntimeError'):
        check_runs(CFG, wrong, PATH)
    check_runs(wrong, wrong, PATH)  # it did not before, which says nothing about Twins


def test_the_part_of_a_model_is_a_copy() -> None:
    cfg = Config(dict(default_scope='mmseg', model=dict(type='Unknown', inner=CFG.model)))
    part = holder_config(cfg, ('model', 'inner'))
    assert (part.model, part.default_scope) == (CFG.model, 'mmseg')
    part.model.backbone.type = 'Other'
    assert cfg.model.inner.backbone.type == 'TwinsSVTBackbone'
