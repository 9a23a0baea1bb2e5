"""The table of what is published: names, learning rates by hand, and the curves of the public logs."""

import math

import numpy as np
import pytest

from mmtwins.analysis.published import BACKBONES, LABELLED, LOG_OF_SVT_S, LOGS, METRICS, RUNS


def test_there_are_34_runs_with_the_names_of_their_configs() -> None:
    assert len(RUNS) == 34
    run = RUNS['upernet_twins-pcpvt-s_8xb4-160k_ade20k-512x512']
    assert (run.batch, run.images, run.metrics) == (32, 4, {'mIoU': 46.2, 'mIoU(ms+flip)': 47.5})
    run = RUNS['mask-rcnn_twins-svt-l_fpn_8xb2-amp-ms-crop-3x_coco']
    assert (run.batch, run.metrics, run.log) == (16, {}, None)
    assert {len(run.result.metrics) for run in RUNS.values() if run.schedule.head == 'retinanet'} == {1}
    assert all(len(run.result.metrics) <= len(METRICS[run.schedule.dataset]) for run in RUNS.values())


@pytest.mark.parametrize(
    ('name', 'iteration', 'epoch', 'scale', 'rate'),
    [
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x512', 0, 0, 1, 6e-5 * 1e-6),
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x512', 750, 0, 1, 6e-5 * (1 - 750 / 160e3) * (1 - 0.5 * (1 - 1e-6))),
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x512', 80_000, 0, 0.125, 3e-5 / 8),
        ('fpn_twins-svt-s_4xb4-80k_ade20k-512x512', 0, 0, 1, 1e-4),
        ('fpn_twins-svt-s_4xb4-80k_ade20k-512x512', 40_000, 0, 2, 1e-6 + (2e-4 - 1e-6) * 0.5**0.9),
        ('fpn_twins-svt-s_4xb4-80k_ade20k-512x512', 90_000, 0, 1, 1e-6),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', 0, 0, 1, 2e-7),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', 250, 0, 1, 2e-4 * (1 - 0.5 * 0.999)),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', 58_639, 7, 1, 2e-4),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', 58_640, 8, 1, 2e-5),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', 87_000, 11, 1, 2e-6),
        ('retinanet_twins-svt-s_fpn_8xb2-ms-crop-3x_coco', 200_000, 27, 1, 1e-5),
    ],
)
def test_learning_rates(name: str, iteration: int, epoch: int, scale: float, rate: float) -> None:
    rates = RUNS[name].schedule.learning_rates(np.array([iteration]), np.array([epoch]), scale)
    assert rates == pytest.approx([rate], rel=1e-12)


def test_the_logs_say_what_the_ledger_says() -> None:
    iterations = np.array([50, 500, 1000])
    losses = {backbone: [f'{loss:.2f}' for loss in log.loss_at(iterations)] for backbone, log in LOGS.items()}
    assert list(losses) == list(BACKBONES)
    assert losses['svt-s'] == ['4.09', '2.23', '1.58']
    assert losses['svt-l'] == ['4.03', '2.10', '1.43']
    assert losses['pcpvt-l'] == ['3.99', '2.10', '1.35']
    assert LOG_OF_SVT_S.miou_at(16_000) == pytest.approx(39.7)
    assert RUNS['upernet_twins-svt-s_8xb2-160k_ade20k-512x512'].log is LOG_OF_SVT_S
    assert RUNS['fpn_twins-svt-s_4xb4-80k_ade20k-512x512'].log is None


def test_between_three_values_a_log_has_the_shape_of_the_longest() -> None:
    at = np.array([50, 200, 500])
    ratios = LOGS['svt-b'].loss_at(at) / LOG_OF_SVT_S.loss_at(at)
    middle = np.interp(math.log(200), np.log(at[[0, 2]]), ratios[[0, 2]])
    assert ratios[1] == pytest.approx(middle, rel=1e-12)
    assert 3.4 < LOGS['svt-b'].loss_at(at)[1] < 3.6  # a straight line from 4.08 to 2.20 would give 2.83
    assert np.isnan(LOGS['svt-b'].loss_at(np.array([20, 1300]))).all()
    assert np.isfinite(LOG_OF_SVT_S.loss_at(np.array([40, 160_000]))).all()


def test_accuracies_are_by_labelled_pixels_and_known_from_iteration_200_on() -> None:
    assert pytest.approx(0.8133, abs=1e-4) == LABELLED
    known = LOG_OF_SVT_S.accuracy_at(np.array([100, 1000]))
    assert math.isnan(known[0]) and known[1] == pytest.approx(47.8 / LABELLED)
    assert np.isnan(LOGS['svt-b'].accuracy_at(np.array([1000]))).all()
    assert [LOG_OF_SVT_S.miou_at(step) for step in (8_000, 170_000)] == [None, None]
    assert LOGS['svt-b'].miou_at(160_000) == pytest.approx(47.69)
