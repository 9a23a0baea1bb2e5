"""The verdict on trainings that nobody ran: as published, and with one thing wrong each."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config
from runs import MASK_RCNN, SVT_S, epoch_records, recipe_of, svt_s_records, write_run

from mmtwins.analysis.published import RUNS
from mmtwins.analysis.run_check import Report, check_run
from mmtwins.analysis.run_log import read_run

Check = Callable[..., Report]
TOY = dict(
    model=dict(decode_head=dict(type='UPerHead', num_classes=9, loss_decode=dict(type='CrossEntropyLoss'))),
    train_cfg=dict(max_iters=1000),
    optim_wrapper=dict(optimizer=dict(lr=1e-3)),
)


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def check(records: list[dict], cfg: Config | None = None, **kwargs: object) -> Report:
        return check_run(read_run(write_run(tmp_path, records, recipe_of(SVT_S) if cfg is None else cfg, **kwargs)))

    return check


def texts(report: Report, verdict: str) -> str:
    return '; '.join(finding.text for finding in report.findings if finding.verdict == verdict)


@pytest.mark.parametrize('last', [50, 500, 1000, 3000])
@pytest.mark.parametrize('seed', range(4))
def test_a_training_as_published_is_on_track(last: int, seed: int, check: Check) -> None:
    report = check(svt_s_records(last, seed=seed))
    assert report.on_track, report.sentence
    assert report.sentence.startswith(f'On track: {SVT_S} at iteration {last:,} of 160,000: the learning rate follows')
    assert report.sentence.count('.') - report.sentence.count('0.') <= 3 and report.sentence.endswith('left.')
    assert {'learning rate', 'loss of the decode head', 'accuracy of the decode head (%)'} <= set(report.curves)


def test_a_whole_training_is_compared_to_its_end(check: Check) -> None:
    report = check(svt_s_records(160_000))
    assert report.on_track, report.sentence
    assert 'mIoU is 46.2 at iteration 160,000, published 46.2' in report.sentence
    assert 'the loss is 0.2' in report.sentence and ' left' not in report.sentence


@pytest.mark.parametrize(('loss', 'last'), [(1.5, 500), (1.5, 1000), (1.4, 3000), (0.5, 1000)])
def test_a_loss_far_from_the_published_one_is_off_track(loss: float, last: int, check: Check) -> None:
    report = check(svt_s_records(last, loss=loss))
    assert report.sentence.startswith('Off track: ')
    assert 'the loss is ' in texts(report, 'off') and ', published ' in texts(report, 'off')


@pytest.mark.parametrize(('miou', 'off'), [(-3.0, True), (-1.2, True), (-0.5, False), (2.0, False)])
def test_the_last_miou_must_be_the_published_one(miou: float, off: bool, check: Check) -> None:
    report = check(svt_s_records(160_000, miou=miou))
    assert report.on_track is not off
    assert f'mIoU is {46.24 + miou:.1f} at iteration 160,000, published 46.2' in texts(report, 'off' if off else 'ok')


def test_on_the_way_the_miou_is_that_of_the_log(check: Check) -> None:
    assert check(svt_s_records(16_000, miou=-1.5)).on_track


def test_a_low_miou_on_the_way_is_off_track(check: Check) -> None:
    assert 'mIoU is 36.7 at iteration 16,000, published 39.7' in texts(check(svt_s_records(17_000, miou=-3.0)), 'off')


def test_another_learning_rate_is_off_track(check: Check) -> None:
    report = check(svt_s_records(1000, rate=2.0))
    assert texts(report, 'off') == (
        'the learning rate is 3.92e-06 instead of 1.96e-06 at iteration 50, the first of 20 records that do not follow the '
        "public code's formula"
    )


def test_a_rate_that_starts_again_after_a_resume_is_found(tmp_path: Path) -> None:
    write_run(tmp_path, svt_s_records(1000), recipe_of(SVT_S), '20260101_100000')
    resumed = svt_s_records(2000, first=1050)
    for record in resumed:
        record['lr'] = svt_s_records(record['step'] - 1000, first=record['step'] - 1000)[0]['lr']
    write_run(tmp_path, resumed, recipe_of(SVT_S), '20260101_110000')
    report = check_run(read_run(tmp_path))
    assert 'at iteration 1,050, the first of 20 records' in report.sentence


def test_several_resumes_as_published_are_on_track(tmp_path: Path) -> None:
    records = svt_s_records(3000)
    for number, (first, last) in enumerate([(0, 20), (15, 40), (38, 60)]):
        write_run(tmp_path, records[first:last], recipe_of(SVT_S), f'20260101_10000{number}', rest='{"lr": 1')
    assert check_run(read_run(tmp_path)).on_track


def test_a_loss_that_is_not_finite_is_off_track(check: Check) -> None:
    records = svt_s_records(1000)
    for record in records[-3:]:
        record['decode.loss_ce'] = record['loss'] = math.nan
    text = texts(check(records), 'off')
    assert text == 'decode.loss_ce is nan at iteration 900, and 3 of 20 records have a loss that is not finite'


def test_a_run_of_nothing_but_nan_still_gets_a_verdict(check: Check) -> None:
    nan = dict.fromkeys(('decode.loss_ce', 'decode.acc_seg', 'loss', 'time', 'data_time', 'lr'), math.nan)
    report = check([record | nan for record in svt_s_records(1000)])
    assert report.sentence.startswith('Off track: ')


def test_an_unscaled_rate_for_a_smaller_batch_is_off_track(check: Check) -> None:
    report = check(svt_s_records(1000), world_size=1)
    assert 'a step has 2 images, but the learning rate is for 16: add --auto-scale-lr' in texts(report, 'off')


def test_with_a_scaled_rate_the_published_log_is_for_another_batch(check: Check) -> None:
    report = check(
        svt_s_records(1000, loss=1.5, rate=0.5), recipe_of(SVT_S, **{'auto_scale_lr.enable': True}), world_size=4
    )
    assert report.on_track, report.sentence
    assert 'a step has 8 images and the published one 16, so their losses differ' in texts(report, 'note')
    assert 'loss of the decode head' not in report.curves and 'the loss went from ' in report.sentence


def test_random_weights_are_named_beside_the_verdict(check: Check) -> None:
    report = check(svt_s_records(1000, loss=1.5), recipe_of(SVT_S, **{'model.backbone.init_cfg': None}))
    assert not report.on_track
    assert 'the backbone started from random weights' in texts(report, 'note')


def test_a_recipe_of_the_user_is_called_by_its_name(tmp_path: Path) -> None:
    recipe_of(SVT_S).dump(tmp_path / 'my_scenes.py')
    write_run(tmp_path, svt_s_records(500), recipe_of(SVT_S))
    assert check_run(read_run(tmp_path)).sentence.startswith('On track: my_scenes at iteration 500 of 160,000')


def test_a_detector_that_counts_in_epochs_is_on_track(check: Check) -> None:
    text = 'Epoch(train)  [1][  50/1000]  lr: 1.0e-03\n'
    report = check(epoch_records(RUNS[MASK_RCNN], 12, 1000, metric=43.2), recipe_of(MASK_RCNN), text=text)
    assert report.on_track, report.sentence
    assert report.sentence.startswith(f'On track: {MASK_RCNN} at iteration 12,000 of 12,000: ')
    assert 'box AP is 43.2 at iteration 12,000, published 43.4' in report.sentence
    assert (
        texts(report, 'note') == '' and report.curves['loss'].expected is None
    )  # there is no formula for all its losses
    assert list(report.curves['box AP (%)'].iterations) == [1000 * epoch for epoch in range(1, 13)]


def test_a_detector_below_the_published_result_is_off_track_only_at_the_end(check: Check, tmp_path: Path) -> None:
    records = epoch_records(RUNS[MASK_RCNN], 12, 1000, metric=41.0)
    assert texts(check(records, recipe_of(MASK_RCNN)), 'off') == 'box AP is 41.0 at iteration 12,000, published 43.4'
    early = records[: len(records) // 2]
    assert check_run(read_run(write_run(tmp_path / 'early', early, recipe_of(MASK_RCNN)))).on_track


def toy_records(losses: list[float], **others: object) -> list[dict]:
    return [
        {'lr': 1e-3, 'decode.loss_ce': value, 'loss': value, 'time': 0.1, 'step': 20 * i, **others}
        for i, value in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ('losses', 'verdict', 'text'),
    [
        ([2.0 - 0.03 * i for i in range(50)], 'ok', 'the loss went from 1.87 to 0.665 since iteration 20 (2.2 for'),
        ([2.0] * 50, 'off', 'the loss does not fall: from 2 to 2 since iteration 20'),
        ([2.0 - 0.03 * i for i in range(40)] + [3.0] * 10, 'off', 'the loss has risen from 0.965 to 3 and diverges'),
        ([2.0, 1.9], 'ok', 'the loss is finite, and 2 records are too few to see it fall'),
        ([40.0, 1.9], 'off', 'decode.loss_ce is 40.00 at iteration 20, where heads that have learnt nothing have 2.20'),
        ([0.1, 0.1], 'note', 'decode.loss_ce is only 0.10 at iteration 20, where heads'),
    ],
)
def test_another_recipe_is_held_to_its_formulae(losses: list[float], verdict: str, text: str, check: Check) -> None:
    report = check(toy_records(losses), Config(TOY))
    assert text in texts(report, verdict)
    assert report.on_track is (verdict != 'off')
    assert report.name == 'UPerHead' and "the learning rate follows the recipe's schedule" in texts(report, 'ok')


def test_a_training_from_a_trained_model_need_not_start_high_nor_fall(check: Check) -> None:
    cfg = Config(dict(TOY, load_from='trained.pth'))
    assert check(toy_records([0.1] * 50), cfg).on_track


@pytest.mark.parametrize(
    'cfg',
    [
        dict(),
        dict(model=dict(type='GAN', decode_head=[dict()])),
        dict(train_cfg=dict(max_epochs=3)),
        dict(
            model='a', train_cfg=None, train_dataloader=[], optim_wrapper='b', auto_scale_lr=True, param_scheduler='c'
        ),
        dict(model=dict(backbone=['a'], data_preprocessor=dict(size=7)), auto_scale_lr=dict(enable=True)),
    ],
)
def test_a_config_of_which_nothing_is_known_gets_a_verdict(cfg: dict, check: Check) -> None:
    assert check(toy_records([2.0, 1.0]), Config(cfg)).on_track


def test_slow_iterations_and_waiting_for_data_are_noted(check: Check) -> None:
    records = svt_s_records(3000)
    for record in records[-6:]:
        record['time'] = 1.05
    for record in records:
        record['data_time'] = 0.2
    report = check(records)
    assert report.on_track
    assert (
        'an iteration now takes 1.05 s, 3.0 times the median of 0.35 s (published: 0.41 s on 8 V100), '
        in report.sentence
    )
    assert '57% of the time is spent waiting for data' in report.sentence and '; but ' in report.sentence


@pytest.mark.parametrize(
    ('seconds', 'left'), [(0.35, '15 h 28 min left'), (0.01, '26 min left'), (4.0, '7.4 days left')]
)
def test_the_time_that_is_left(seconds: float, left: str, check: Check) -> None:
    assert left in check([record | dict(time=seconds) for record in svt_s_records(1000)]).sentence


def test_many_lines_that_cannot_be_read_are_noted(check: Check) -> None:
    assert '3 lines of the log cannot be read' in texts(check(svt_s_records(50), rest='a\nb\nc\n'), 'note')
