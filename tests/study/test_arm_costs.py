"""What the arms cost: counted and measured numbers, kept together."""

import pytest

pytest.importorskip('mmseg')

from mmtwins.analysis.counting import count
from mmtwins.engine.model import build_model
from mmtwins.study.arm_costs import measure_arms
from mmtwins.study.arm_training import config_of


def test_numbers_are_those_of_the_whole_model_and_kept(tiny_study) -> None:
    study = tiny_study[0]
    found = measure_arms(study, ['k7', 'lsa'], only_kept=True)
    assert found is not None and found['machine']['threads'] == 1
    for arm in ('k7', 'lsa'):
        expected = count(build_model(config_of(study, arm, 0)), 64, 64).total
        cost = found['arms'][arm]
        assert (cost['parameters'], cost['macs']) == (expected.parameters, expected.macs)
        for work, batch in (('training', 2), ('inference', 1)):
            assert cost[work]['batch'] == batch and cost[work]['seconds'] > 0 and cost[work]['bytes'] > 0
    assert measure_arms(study, ['k7', 'gsa'], only_kept=True) is None
