"""Is a training on track? Compare its log with a published one, or with the formulae of its recipe."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..engine.config_sections import type_of
from .published import PublishedRun
from .recipe import find_published_run, section, total_batch
from .run_findings import (
    Curve,
    Finding,
    Training,
    compare_accuracy,
    compare_loss,
    compare_metrics,
    compare_rates,
    series_of,
)
from .run_log import RunLog


@dataclass(frozen=True)
class Report:
    """All comparisons of a training.

    Attributes:
        name: Of the recipe, or what is known of the model.
        iteration: Of the last record.
        length: Iterations of the whole training, None where it is not known.
        findings: In the order of the checks.
        curves: By the title of their axis.
    """

    name: str
    iteration: int
    length: int | None
    findings: list[Finding]
    curves: dict[str, Curve]

    @property
    def on_track(self) -> bool:
        """Nothing is off."""
        return all(finding.verdict != 'off' for finding in self.findings)

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        of = f' of {self.length:,}' if self.length else ''
        where = f'{self.name} at iteration {self.iteration:,}{of}'
        chosen = {verdict: [f.text for f in self.findings if f.verdict == verdict] for verdict in ('ok', 'note', 'off')}
        if not self.on_track:
            return f'Off track: {where}: {"; ".join(chosen["off"])}.'
        but = f'; but {"; ".join(chosen["note"])}' if chosen['note'] else ''
        return f'On track: {where}: {"; ".join(chosen["ok"])}{but}.'


def check_run(log: RunLog) -> Report:
    """Compare a training with the published log of its recipe or, where there is none, with the recipe's formulae.

    Args:
        log: Of the training.

    Returns:
        What the comparisons gave, and the curves to draw.
    """
    published = find_published_run(log.cfg)
    batch = total_batch(log.cfg, log.world_size)
    public_log = published.log if published and batch in (None, published.batch) else None
    training = Training(log, published, public_log)
    last, length = log.training[-1]['step'], _length(log)
    findings = [
        *_check_loss_is_finite(log),
        *_check_batch(log, published),
        *_check_start(log, published),
        *compare_rates(training),
        *compare_loss(training),
        *compare_accuracy(training),
        *compare_metrics(training),
        *_check_time(training, length - last if length else 0),
    ]
    if log.unreadable > len(log.starts):  # a line is cut off where a run was killed
        findings.append(Finding('log', 'note', f'{log.unreadable} lines of the log cannot be read'))
    return Report(_describe(log, published), last, length, findings, training.curves)


def _describe(log: RunLog, published: PublishedRun | None) -> str:
    if log.name:
        return log.name
    if published:
        return published.name
    head = section(log.cfg, 'model', 'decode_head') or section(log.cfg, 'model')
    parts = [type_of(part) for part in (head, section(log.cfg, 'model', 'backbone'))]
    return ' with '.join(filter(None, parts)) or 'this training'


def _length(log: RunLog) -> int | None:
    train_cfg = section(log.cfg, 'train_cfg')
    if epochs := train_cfg.get('max_epochs'):
        return epochs * log.epoch_length if log.epoch_length else None
    return train_cfg.get('max_iters')


def _check_loss_is_finite(log: RunLog) -> Iterator[Finding]:
    wrong = [r for r in log.training if any('loss' in key and not math.isfinite(value) for key, value in r.items())]
    if wrong:
        name = next(key for key, value in wrong[0].items() if 'loss' in key and not math.isfinite(value))
        yield Finding(
            'loss',
            'off',
            f'{name} is {wrong[0][name]} at iteration {wrong[0]["step"]:,}, and {len(wrong)} of {len(log.training)} records '
            'have a loss that is not finite',
        )


def _check_batch(log: RunLog, published: PublishedRun | None) -> Iterator[Finding]:
    batch = total_batch(log.cfg, log.world_size)
    expected = published.batch if published else section(log.cfg, 'auto_scale_lr').get('base_batch_size')
    if batch is None or expected in (None, batch):
        return
    if section(log.cfg, 'auto_scale_lr').get('enable'):
        yield Finding(
            'batch', 'note', f'a step has {batch} images and the published one {expected}, so their losses differ'
        )
    else:
        yield Finding(
            'batch',
            'off' if published else 'note',
            f'a step has {batch} images, but the learning rate is for {expected}: add --auto-scale-lr',
        )


def _check_start(log: RunLog, published: PublishedRun | None) -> Iterator[Finding]:
    given = section(log.cfg, 'model', 'backbone').get('init_cfg')
    if published and not given and not log.cfg.get('load_from'):
        yield Finding(
            'weights',
            'note',
            'the backbone started from random weights, with which the published numbers will not come',
        )


def _check_time(training: Training, left: int) -> Iterator[Finding]:
    """Compare the newest times with the median of all; ``left`` are the iterations to come."""
    times = series_of([r for r in training.log.training if math.isfinite(r.get('time', 0.0))], 'time')
    number = len(times.values)
    if not number:
        return
    median = float(np.median(times.values))
    recent = float(np.median(times.values[-max(3, number // 10) :]))
    source = f'median of {median:.2f} s'
    if training.public_log and training.public_log.seconds:
        source += f' (published: {training.public_log.seconds:.2f} s on 8 V100)'
    training.curves['time of an iteration (s)'] = replace(times, expected=np.full(number, median), source=source)
    rest = f', {_readable_time(left * recent)} left' if left > 0 else ''
    if number >= 10 and recent > 1.5 * median:
        yield Finding(
            'time', 'note', f'an iteration now takes {recent:.2f} s, {recent / median:.1f} times the {source}{rest}'
        )
    else:
        yield Finding('time', 'ok', f'an iteration takes {recent:.2f} s{rest}')
    waiting = series_of(
        [r for r in training.log.training if math.isfinite(r.get('data_time', 0.0))], 'data_time'
    ).values
    if len(waiting) >= 10 and (share := float(np.median(waiting)) / max(median, 1e-9)) > 0.3:
        yield Finding('time', 'note', f'{share:.0%} of the time is spent waiting for data: add workers')


def _readable_time(seconds: float) -> str:
    """Such as ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f'{minutes / 60 / 24:.1f} days'
    return f'{minutes // 60} h {minutes % 60} min' if minutes >= 60 else f'{minutes} min'
