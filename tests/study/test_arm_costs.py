"""What the arms cost: counted and measured numbers, kept together."""

from collections.abc import Sequence

import pytest

pytest.importorskip('mmseg')

from mmtwins.analysis.counting import count
from mmtwins.benchmark.task import Task
from mmtwins.engine.model import build_model
from mmtwins.study import arm_costs
from mmtwins.study.arm_costs import measure_arms
from mmtwins.study.arm_training import Study, config_of


def check_costs(study: Study, arms: Sequence[str]) -> None:
    found = measure_arms(study, arms, rounds=1)
    assert found is not None and found['machine']['threads'] >= 1
    for arm in arms:
        expected = count(build_model(config_of(study, arm, 0)), 64, 64).total
        cost = found['arms'][arm]
        assert (cost['parameters'], cost['macs']) == (expected.parameters, expected.macs)
        for work, batch in (('training', 2), ('inference', 1)):
            assert cost[work]['batch'] == batch and cost[work]['seconds'] > 0 and cost[work]['bytes'] > 0


def test_numbers_are_those_of_the_whole_model_and_kept(tiny_study, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study[0]
    tasks: list[Task] = []
    monkeypatch.setattr(arm_costs, 'measure_memory', lambda task, name: tasks.append(task) or 1000)
    check_costs(study, ['k7', 'lsa'])
    works = [(task.work, task.batch, task.height) for task in tasks]
    assert sorted(works) == [('inference', 1, 64)] * 2 + [('training', 2, 64)] * 2
    measure_arms(study, ['lsa'])
    assert len(tasks) == 4  # what is kept serves fewer arms too
    assert measure_arms(study, ['k7', 'gsa'], only_kept=True) is None


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process(tiny_study) -> None:
    study = tiny_study[0]
    (study.results / 'cost.json').unlink(missing_ok=True)
    check_costs(study, ['lsa', 'gsa'])
    (study.results / 'cost.json').unlink()
