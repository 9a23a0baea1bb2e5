"""Comparisons of a training's numbers with a published log or the formulae of its recipe, one by one."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from .published import PublishedRun, TrainingLog
from .recipe import fresh_losses, images_per_gpu, rate_scale, scheduled_rates, section
from .run_log import RunLog

# How far a mean of the loss may be from the published one, relative to that. The first part is for what differs between two
# sound runs: seeds, means over 10 iterations instead of the 50 of the public log, the models (SVT-S and SVT-L differ by 10 % at
# iteration 1,000). The second is three times the noise. In the public log of SVT-S, means over 800 images scatter by 1.5 %
# before iteration 500 and by 3.4 % after 1,000. So the loss of one image scatters by 0.4 and 1.0 times its size, and a mean over
# n images by 1 / sqrt(n) of that.
LOSS_TOLERANCE = 0.15
LOSS_NOISE = 3.0
ACCURACY_TOLERANCE = 6.0  # percent points
ACCURACY_NOISE = 100.0  # four times the 25 points of one image
# Published figures of one model differ by up to 0.7 points (PCPVT-B, table and log); on the way, two evaluations of a run more.
METRIC_TOLERANCE = {'final': 1.0, 'on the way': 2.0}  # percent points
RATE_TOLERANCE = 0.005
BIN = 1.5  # neighbouring records are averaged: those whose iterations differ by less than this factor
START = 1.25  # the first loss is at most this many times that of heads that have learnt nothing
FALL = 0.97  # what remains of the loss in a training that learns: less than this
RISE = 1.3  # a loss this many times its lowest has diverged


@dataclass(frozen=True)
class Finding:
    """What one comparison gave; ``verdict`` is ``ok``, ``note`` (worth knowing) or ``off``."""

    subject: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Curve:
    """Values of a training beside what is expected of it; NaN where nothing is known.

    Attributes:
        iterations: (N,)
        values: (N,)
        expected: (N,), or None.
        source: Where ``expected`` comes from.
        margin: (N,) how far the mean over the bin of a record may be from ``expected``, or None.
    """

    iterations: np.ndarray
    values: np.ndarray
    expected: np.ndarray | None = None
    source: str = ''
    margin: np.ndarray | None = None

    def bins(self) -> list[np.ndarray]:
        """Masks of neighbouring records, which are averaged; the last ones are together."""
        numbers = np.floor(np.log(self.iterations.max(initial=1) / self.iterations) / math.log(BIN) + 1e-9)
        return [numbers == number for number in np.unique(numbers)[::-1]]


@dataclass(frozen=True)
class Training:
    """What the comparisons read; ``curves`` is what they leave to draw, by the title of the axis.

    Attributes:
        log: The training.
        published: The run that it repeats, None if its recipe is not published.
        public_log: The log of that run, None if it is not public or for another batch.
    """

    log: RunLog
    published: PublishedRun | None
    public_log: TrainingLog | None
    curves: dict[str, Curve] = field(default_factory=dict)


def series_of(records: list[dict], key: str) -> Curve:
    """The values of one name, without what is expected of them."""
    points = [(record['step'], record[key]) for record in records if key in record]
    return Curve(np.array([step for step, _ in points], int), np.array([value for _, value in points], float))


def compare_rates(training: Training) -> Iterator[Finding]:
    """Compare the learning rate of each record with the public code's formula, or with the schedulers of the config."""
    log, published = training.log, training.published
    key = 'base_lr' if any('base_lr' in record for record in log.training) else 'lr'
    rates = series_of(log.training, key)
    scale = rate_scale(log.cfg, log.world_size)
    if not len(rates.values) or scale is None:
        return
    iterations = rates.iterations - 1  # a record is written after its iteration, with the rate of it
    epochs = np.array([record.get('epoch', 1) - 1 for record in log.training if key in record], int)
    if published:
        expected, source = published.schedule.learning_rates(iterations, epochs, scale), "the public code's formula"
    else:
        scheduled = scheduled_rates(log.cfg, list(iterations), list(epochs), log.epoch_length, scale)
        if scheduled is None:
            return
        expected, source = scheduled, "the recipe's schedule"
    training.curves['learning rate'] = Curve(rates.iterations, rates.values, expected, source)
    errors = np.abs(rates.values - expected) / np.maximum(np.abs(expected), 1e-12)
    if (wrong := np.flatnonzero(~(errors < RATE_TOLERANCE))).size:
        first = wrong[0]
        yield Finding(
            'learning rate',
            'off',
            f'the learning rate is {rates.values[first]:.3g} instead of {expected[first]:.3g} at iteration '
            f'{rates.iterations[first]:,}, the first of {len(wrong)} records that do not follow {source}',
        )
    else:
        yield Finding('learning rate', 'ok', f'the learning rate follows {source}')


def compare_loss(training: Training) -> Iterator[Finding]:
    """Compare the loss with the published one, or look whether it starts as fresh heads do and falls."""
    log, public_log = training.log, training.public_log
    if public_log:
        loss = series_of(log.training, 'decode.loss_ce')
        expected = public_log.loss_at(loss.iterations)
        if np.isfinite(expected).any():
            window = section(log.cfg, 'log_processor').get('window_size', 10)
            gap = int(np.median(np.diff(loss.iterations, prepend=0)))
            images = images_per_gpu(log.cfg) * max(1, min(window if isinstance(window, int) else 10, gap))
            curve = Curve(loss.iterations, loss.values, expected, f'{public_log.file}, published')
            records = sum(chosen * chosen.sum() for chosen in curve.bins())
            noise = LOSS_NOISE * np.clip(loss.iterations / 1000, 0.4, 1.0) / np.sqrt(images * records)
            curve = replace(curve, margin=expected * (LOSS_TOLERANCE + noise))
            training.curves['loss of the decode head'] = curve
            yield from _compare('loss', curve, '{ours:.2f}, published {theirs:.2f}')
            return
    loss = series_of(log.training, 'loss')
    fresh = {} if log.cfg.get('load_from') else fresh_losses(log.cfg)
    parts = {key for key in log.training[0] if 'loss' in key} - {'loss'}
    total = (
        sum(fresh.values()) if parts and parts <= set(fresh) else None
    )  # without a formula for one, none for the sum
    bound = np.full(len(loss.iterations), total) if total else None
    training.curves['loss'] = Curve(loss.iterations, loss.values, bound, 'heads that have learnt nothing')
    finite = np.isfinite(loss.values)
    yield from _check_first_loss(log, fresh)
    start = f' ({total:.3g} for heads that have learnt nothing)' if total else ''
    yield from _check_fall(loss.iterations[finite], loss.values[finite], bool(log.cfg.get('load_from')), start)


def _check_first_loss(log: RunLog, fresh: dict[str, float]) -> Iterator[Finding]:
    first = log.training[0]
    for name, formula in fresh.items():
        value = first.get(name, math.nan)
        if value > START * formula:
            yield Finding(
                'loss',
                'off',
                f'{name} is {value:.2f} at iteration {first["step"]:,}, where heads that have learnt nothing have {formula:.2f}',
            )
        elif name.startswith('decode') and value < 0.25 * formula and first['step'] <= 50:
            yield Finding(
                'loss',
                'note',
                f'{name} is only {value:.2f} at iteration {first["step"]:,}, where heads that have learnt nothing have '
                f'{formula:.2f}: check the labels',
            )


def _check_fall(iterations: np.ndarray, values: np.ndarray, trained_before: bool, start: str) -> Iterator[Finding]:
    parts = [part.mean() for part in np.array_split(values, 5)] if len(values) >= 10 else []
    if not parts:
        if len(values):
            yield Finding('loss', 'ok', f'the loss is finite, and {len(values)} records are too few to see it fall')
        return
    first, last, lowest = parts[0], parts[-1], min(parts)
    span = f'from {first:.3g} to {last:.3g} since iteration {iterations[0]:,}{start}'
    if last > RISE * lowest:
        yield Finding('loss', 'off', f'the loss has risen from {lowest:.3g} to {last:.3g} and diverges')
    elif last > FALL * first and not trained_before and iterations[-1] > 2 * iterations[0]:
        yield Finding('loss', 'off', f'the loss does not fall: {span}')
    else:
        yield Finding('loss', 'ok', f'the loss went {span}')


def compare_accuracy(training: Training) -> Iterator[Finding]:
    """Compare the accuracy of a decode head with the published one."""
    accuracy, public_log = series_of(training.log.training, 'decode.acc_seg'), training.public_log
    if not len(accuracy.values):
        return
    expected = public_log.accuracy_at(accuracy.iterations) if public_log else np.full(len(accuracy.values), np.nan)
    source = f'{public_log.file}, published, by labelled pixels' if public_log else ''
    curve = Curve(accuracy.iterations, accuracy.values, expected, source)
    images = images_per_gpu(training.log.cfg)  # MMEngine logs the accuracy of the last iteration alone
    records = sum(chosen * chosen.sum() for chosen in curve.bins())
    curve = replace(curve, margin=ACCURACY_TOLERANCE + ACCURACY_NOISE / np.sqrt(images * records))
    training.curves['accuracy of the decode head (%)'] = curve
    yield from _compare('accuracy', curve, '{ours:.0f} %, published {theirs:.0f} %')


def _compare(subject: str, curve: Curve, text: str) -> Iterator[Finding]:
    """Compare the means of neighbouring records; say the worst of those that are off, else the last."""
    assert curve.expected is not None and curve.margin is not None
    rows = []
    for chosen in curve.bins():
        chosen = chosen & np.isfinite(curve.expected) & np.isfinite(curve.values)
        if chosen.any():
            parts = (curve.values, curve.expected, curve.margin, np.log(curve.iterations))
            ours, theirs, margin, middle = (float(part[chosen].mean()) for part in parts)
            rows.append((abs(ours - theirs) / margin, round(math.exp(middle)), text.format(ours=ours, theirs=theirs)))
    if rows:
        worst = max(rows)
        share, iteration, text = worst if worst[0] > 1 else rows[-1]
        yield Finding(subject, 'off' if share > 1 else 'ok', f'the {subject} is {text} around iteration {iteration:,}')


def compare_metrics(training: Training) -> Iterator[Finding]:
    """Compare the metrics of validations with the published log on the way, and with the published result at the end."""
    log, published, public_log = training.log, training.published, training.public_log
    end = log.training[-1]['step'] if _has_ended(log, published) else None
    for key, name in {'mIoU': 'mIoU', 'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP'}.items():
        metric = series_of(log.validation, key)
        if not len(metric.values):
            continue
        values = metric.values * (100 if '/' in key else 1)
        final = published.metrics.get(name) if published else None
        expected = np.array([final if step == end else None for step in metric.iterations], float)
        if public_log and name == 'mIoU':
            logged = np.array([public_log.miou_at(step) for step in metric.iterations], float)
            expected = np.where(np.isnan(expected), logged, expected)
        training.curves[f'{name} (%)'] = Curve(metric.iterations, values, expected, 'published')
        step, value, aim = metric.iterations[-1], values[-1], expected[-1]
        if not math.isfinite(value):
            yield Finding(name, 'off', f'{name} is {value} at iteration {step:,}')
        elif math.isfinite(aim):
            limit = METRIC_TOLERANCE['final' if step == end else 'on the way']
            verdict = 'off' if value < aim - limit else 'ok'
            yield Finding(name, verdict, f'{name} is {value:.1f} at iteration {step:,}, published {aim:.1f}')
        else:
            yield Finding(name, 'ok', f'{name} is {value:.1f} at iteration {step:,}')


def _has_ended(log: RunLog, published: PublishedRun | None) -> bool:
    if published is None:
        return False
    if published.schedule.epochs:
        return any(record.get('epoch') == published.schedule.epochs for record in log.validation)
    return log.training[-1]['step'] >= published.schedule.iterations
