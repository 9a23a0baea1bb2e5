"""Combinations of stages that no other beats, against brute force on random choices."""

from itertools import product

import numpy as np
import pytest

from mmtwins.analysis.front import Setting, StageChoice, choose_within, combine


def cost_of(combination: tuple[StageChoice, ...]) -> tuple[int, int, int]:
    macs, parameters, keys = zip(*(choice[2:] for choice in combination))
    return sum(macs), sum(parameters), min(keys)


@pytest.mark.parametrize('seed', range(6))
def test_random_choices_against_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    stages = [
        [StageChoice(i, i, *map(int, random.integers(1, 9, 3))) for i in range(random.integers(1, 9))] for _ in range(3)
    ]
    costs = {cost_of(combination) for combination in product(*stages)}
    expected = {
        one for one in costs if not any(a[0] <= one[0] and a[1] <= one[1] and a[2] >= one[2] for a in costs if a != one)
    }
    found = [cost_of(combination) for combination in combine(stages)]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert [macs for macs, _, _ in found] == sorted(macs for macs, _, _ in found)


def test_the_choice_within_bounds() -> None:
    front = [Setting(*cost, (7,), (8,), ('conv',)) for cost in ((10, 90, 4), (20, 50, 4), (30, 70, 9), (40, 40, 5))]
    assert choose_within(front, None, None) is front[0]
    assert choose_within(front, 60, None) is front[1]
    assert choose_within(front, None, 35) is front[1]
    assert choose_within(front, 75, 45) is front[2]
    assert choose_within(front, 45, 45) is front[3]
    message = (
        'max_params=30: no windows are within this. The fewest MACs are 10, with 90 parameters; the fewest parameters are '
        '40, with 40 MACs: give larger bounds, a smaller min_keys or another subsampling'
    )
    with pytest.raises(ValueError, match=message):
        choose_within(front, 30, None)
