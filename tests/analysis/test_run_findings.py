"""Means of neighbouring records, margins, and the comparisons' corner cases."""

import math

import numpy as np
import pytest
from mmengine.config import Config
from runs import SVT_S, recipe_of, svt_s_records

from mmtwins.analysis.published import LABELLED, LOG_OF_SVT_S, RUNS
from mmtwins.analysis.run_findings import (
    Curve,
    Training,
    compare_accuracy,
    compare_loss,
    compare_metrics,
    compare_rates,
    series_of,
)
from mmtwins.analysis.run_log import RunLog


def training_of(records: list[dict], validation: list[dict] | None = None, **changes: object) -> Training:
    log = RunLog(records, validation or [], recipe_of(SVT_S, **changes), [50], world_size=8)
    return Training(log, RUNS[SVT_S], LOG_OF_SVT_S)


def test_neighbours_differ_by_less_than_half_and_the_last_are_together() -> None:
    iterations = np.arange(50, 1001, 50)
    bins = Curve(iterations, np.zeros(20)).bins()
    assert (sum(bins) == 1).all()
    assert [list(iterations[chosen]) for chosen in bins][-1] == [700, 750, 800, 850, 900, 950, 1000]
    assert [list(iterations[chosen]) for chosen in bins][:2] == [[50], [100]]
    assert Curve(np.array([], int), np.array([])).bins() == []


def test_a_series_has_the_records_that_have_the_name() -> None:
    curve = series_of([dict(step=1, a=2), dict(step=2), dict(step=3, a=math.nan)], 'a')
    assert list(curve.iterations) == [1, 3] and curve.values[0] == 2 and math.isnan(curve.values[1])
    assert len(series_of([], 'a').values) == 0


@pytest.mark.parametrize(
    ('window', 'interval', 'images'), [(10, 50, 20), (50, 50, 100), (50, 20, 40), ('epoch', 50, 20)]
)
def test_the_margin_of_the_loss_falls_with_the_images_behind_it(window: int | str, interval: int, images: int) -> None:
    records = [dict(r, step=r['step'] * interval // 50) for r in svt_s_records(1000)]
    training = training_of(records, log_processor=dict(window_size=window))
    list(compare_loss(training))
    curve = training.curves['loss of the decode head']
    last = curve.iterations > curve.iterations[-1] / 1.5
    noise = 3 * np.clip(curve.iterations / 1000, 0.4, 1) / math.sqrt(images * last.sum())
    assert curve.margin[last] == pytest.approx((curve.expected * (0.15 + noise))[last])


def test_the_accuracy_is_compared_by_labelled_pixels() -> None:
    training = training_of(svt_s_records(1000))
    (finding,) = compare_accuracy(training)
    assert finding.verdict == 'ok'
    curve = training.curves['accuracy of the decode head (%)']
    assert curve.expected[-1] == pytest.approx(47.8 / LABELLED)
    low = [dict(record, **{'decode.acc_seg': 5.0}) for record in training.log.training]
    (finding,) = compare_accuracy(training_of(low))
    assert finding.verdict == 'off' and 'the accuracy is 5 %, published ' in finding.text


def test_without_accuracy_loss_or_rate_there_is_nothing_to_compare() -> None:
    training = training_of([dict(step=50, time=1.0)])
    assert [*compare_accuracy(training), *compare_rates(training), *compare_metrics(training)] == []
    assert list(compare_loss(training)) == []


def test_base_lr_counts_where_the_first_group_has_another_rate() -> None:
    records = [dict(record, base_lr=record['lr'], lr=7.0) for record in svt_s_records(1000)]
    (finding,) = compare_rates(training_of(records))
    assert (finding.verdict, finding.subject) == ('ok', 'learning rate')


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_off(value: float) -> None:
    (finding,) = compare_metrics(training_of(svt_s_records(1000), [dict(mIoU=value, step=1000)]))
    assert (finding.verdict, finding.text) == ('off', f'mIoU is {value} at iteration 1,000')


def test_an_unknown_schedule_leaves_the_rate_out() -> None:
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1.0)), param_scheduler=[dict(type='NoSuchLR')]))
    assert list(compare_rates(Training(RunLog([dict(lr=1.0, step=1)], [], cfg, [1]), None, None))) == []
