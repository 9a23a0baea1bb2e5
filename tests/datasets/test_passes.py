"""How much a pass looks at: everything in processes, or a spread sample here."""

import os

import pytest

from mmtwins.datasets.isolation import Outcome
from mmtwins.datasets.passes import SAMPLE, Pass


def test_a_sample_is_spread_evenly() -> None:
    chosen = Pass(fast=True).choose(range(10 * SAMPLE))
    assert chosen == list(range(0, 10 * SAMPLE, 10))
    assert Pass(fast=True).choose(range(SAMPLE)) == list(range(SAMPLE))
    assert Pass().choose(range(10 * SAMPLE)) == list(range(10 * SAMPLE))


@pytest.mark.parametrize('options', [Pass(fast=True), Pass(workers=2)])
@pytest.mark.parametrize('progress', [False, True])
def test_outcomes_are_in_order(options: Pass, progress: bool) -> None:
    def reciprocal(number: int) -> float:
        return 1 / number

    options = Pass(options.fast, options.workers, progress)
    outcomes = options.run(reciprocal, [4, 2, 0, 1], 'numbers')
    assert outcomes == [
        Outcome(0.25),
        Outcome(0.5),
        Outcome(failure='ZeroDivisionError: division by zero'),
        Outcome(1.0),
    ]


def test_a_whole_pass_takes_all_cores() -> None:
    assert Pass.whole().workers == len(os.sched_getaffinity(0))
    assert Pass.whole(3).workers == 3 and not Pass.whole().fast


def test_the_fast_pass_starts_no_process() -> None:
    assert Pass(fast=True).run(lambda _: os.getpid(), [0], '')[0].value == os.getpid()
    assert Pass().run(lambda _: os.getpid(), [0], '')[0].value != os.getpid()
