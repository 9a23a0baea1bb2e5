"""MACs of models, on tensors without values and from a prediction."""

import pytest
from mmengine.config import Config
from small_segmentor import small_segmentor

from mmtwins.swapping import costs
from mmtwins.swapping.costs import count_macs

pytest.importorskip('mmseg')
pytest.importorskip('mmcv')

CFG = small_segmentor(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16)))
PATH = ('model',)


def test_macs_are_counted_for_the_part_with_the_backbone() -> None:
    wrapped = Config(dict(default_scope='mmseg', model=dict(type='Unknown', inner=CFG.model)))
    small, large = count_macs(CFG, PATH, 64, 64), count_macs(wrapped, ('model', 'inner'), 128, 128)
    assert small is not None
    assert large is not None
    assert (small[1], large[1]) == (False, False)
    assert 3.9 < large[0] / small[0] < 4.4
    assert count_macs(wrapped, PATH, 64, 64) is None


def test_a_prediction_has_the_macs_of_the_model_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = count_macs(CFG, PATH, 64, 96)

    def fail(*_: object) -> None:
        raise ValueError('it asks for values')

    monkeypatch.setattr(costs, 'count', fail)
    assert expected is not None
    assert count_macs(CFG, PATH, 64, 96) == (expected[0], True)
