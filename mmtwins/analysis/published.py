"""What the Twins authors published: schedules, results and training logs. Every page and config is checked against this table.

Source: paper (arXiv:2104.13840v4, tables 2 to 4 and 8) and public code (Meituan-AutoML/Twins: its configs, and its logs
``logs/upernet_*.txt``). Where they disagree, docs/reproduction.md says what we follow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BACKBONES = ('svt-s', 'svt-b', 'svt-l', 'pcpvt-s', 'pcpvt-b', 'pcpvt-l')
METRICS = {'ade20k': ('mIoU', 'mIoU(ms+flip)'), 'coco': ('box AP', 'mask AP')}


@dataclass(frozen=True)
class Schedule:
    """How one of the six recipes trains.

    The learning rate has a linear warm-up, and then either a polynomial decay (with ``iterations``) or steps by 0.1 (with
    ``epochs``).

    Attributes:
        title: Heading of its section in the ledger.
        head: First field of the names of its configs.
        ending: Last fields of these names.
        dataset: Folder of its configs.
        size: Side of the crop in pixels (ADE20K), or long and short side (COCO).
        gpus: Number of GPUs.
        images: Per GPU.
        rate: Learning rate.
        weight_decay: AdamW's.
        warmup: Iterations of warm-up.
        warmup_start: First factor of the warm-up.
        iterations: Length in iterations, 0 where it is given in epochs.
        power: Of the polynomial decay.
        final_rate: At the end of the polynomial decay.
        epochs: Length in epochs, 0 where it is given in iterations.
        steps: Epochs after which the rate is divided by ten.
        images_of: Images per GPU of single backbones.
        without: Backbones that have no recipe.
    """

    title: str
    head: str
    ending: str
    dataset: str
    size: tuple[int, ...]
    gpus: int
    images: int
    rate: float
    weight_decay: float
    warmup: int = 0
    warmup_start: float = 1.0
    iterations: int = 0
    power: float = 1.0
    final_rate: float = 0.0
    epochs: int = 0
    steps: tuple[int, ...] = ()
    images_of: dict[str, int] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def learning_rates(self, iterations: np.ndarray, epochs: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """The learning rate at iterations, in closed form.

        Args:
            iterations: Counted from 0.
            epochs: Finished epochs at each of them; only steps use it.
            scale: Factor of the rate, for another batch size.

        Returns:
            (len(iterations),)
        """
        rate = self.rate * scale
        warmed = np.clip(1 - iterations / self.warmup, 0, 1) if self.warmup else np.zeros(len(iterations))
        if self.iterations:
            left = np.clip(1 - iterations / self.iterations, 0, 1)
            decayed: np.ndarray = self.final_rate + (rate - self.final_rate) * left**self.power
        else:
            decayed = rate * 0.1 ** np.searchsorted(self.steps, epochs, side='right')
        return decayed * (1 - warmed * (1 - self.warmup_start))


def _coco_schedule(title: str, head: str, ending: str, rate: float) -> Schedule:
    """The schedules of MMDetection, 1x and 3x; the longer one has the weight decay of Swin."""
    epochs, steps, weight_decay = (36, (27, 33), 0.05) if ending.endswith('3x') else (12, (8, 11), 1e-4)
    return Schedule(
        title,
        head,
        ending,
        dataset='coco',
        size=(1333, 800),
        gpus=8,
        images=2,
        rate=rate,
        weight_decay=weight_decay,
        warmup=500,
        warmup_start=0.001,
        epochs=epochs,
        steps=steps,
        without=('pcpvt-l',) if epochs == 36 else (),
    )


_SCHEDULES = (
    Schedule(
        'UPerNet',
        'upernet',
        '160k',
        dataset='ade20k',
        size=(512,),
        gpus=8,
        images=2,
        images_of={'pcpvt-s': 4},
        rate=6e-5,
        weight_decay=0.01,
        warmup=1500,
        warmup_start=1e-6,
        iterations=160_000,
    ),
    Schedule(
        'Semantic FPN',
        'fpn',
        '80k',
        dataset='ade20k',
        size=(512,),
        gpus=4,
        images=4,
        rate=1e-4,
        weight_decay=1e-4,
        iterations=80_000,
        power=0.9,
        final_rate=1e-6,
    ),
    _coco_schedule('Mask R-CNN 1x', 'mask-rcnn', '1x', 2e-4),
    _coco_schedule('Mask R-CNN 3x', 'mask-rcnn', 'amp-ms-crop-3x', 1e-4),
    _coco_schedule('RetinaNet 1x', 'retinanet', '1x', 1e-4),
    _coco_schedule('RetinaNet 3x', 'retinanet', 'ms-crop-3x', 1e-4),
)


SCHEDULES = {schedule.title: schedule for schedule in _SCHEDULES}


class Result(NamedTuple):
    """A row of the paper: ``metrics`` in the order of METRICS, None where not published; parameters in M, MACs in G."""

    metrics: tuple[float | None, ...]
    parameters: float
    macs: float | None
    table: int


# fmt: off
_RESULTS = {
    'UPerNet': (
        Result((46.2, 47.1), 54.4, 228, 2), Result((47.7, 48.9), 88.5, 261, 2), Result((48.8, 50.2), 133, 297, 2),
        Result((46.2, 47.5), 54.6, 234, 2), Result((47.1, 48.4), 74.3, 250, 2), Result((48.6, 49.8), 91.5, 269, 2),
    ),
    'Semantic FPN': (
        Result((43.2, None), 28.3, 37, 2), Result((45.3, None), 60.4, 67, 2), Result((46.7, None), 103.7, 102, 2),
        Result((44.3, None), 28.4, 40, 2), Result((44.9, None), 48.1, 55, 2), Result((46.4, None), 65.3, 71, 2),
    ),
    'Mask R-CNN 1x': (
        Result((43.4, 40.3), 44.0, 164, 4), Result((45.2, 41.5), 76.3, 224, 4), Result((45.9, 41.6), 119.7, None, 8),
        Result((42.9, 40.0), 44.3, 178, 4), Result((44.6, 40.9), 64.0, 211, 4), Result((45.4, 41.5), 81.2, None, 8),
    ),
    'Mask R-CNN 3x': (
        Result((46.8, 42.6), 44.0, 164, 4), Result((48.0, 43.0), 76.3, 224, 4), Result((None, None), 119.7, None, 8),
        Result((46.8, 42.6), 44.3, 178, 4), Result((47.9, 43.2), 64.0, 211, 4),
    ),
    'RetinaNet 1x': (
        Result((43.0,), 34.3, 104, 3), Result((45.3,), 67.0, None, 3), Result((45.7,), 110.9, None, 8),
        Result((43.0,), 34.4, 118, 3), Result((44.3,), 54.1, 151, 3), Result((45.1,), 71.2, None, 8),
    ),
    'RetinaNet 3x': (
        Result((45.6,), 34.3, 104, 3), Result((46.9,), 67.0, None, 3), Result((None,), 110.9, None, 8),
        Result((45.2,), 34.4, 118, 3), Result((46.4,), 54.1, 151, 3),
    ),
}
# fmt: on


@dataclass(frozen=True)
class PublishedRun:
    """A recipe: a schedule with a backbone, and what its authors got."""

    schedule: Schedule
    backbone: str
    result: Result

    @property
    def images(self) -> int:
        """Per GPU."""
        return self.schedule.images_of.get(self.backbone, self.schedule.images)

    @property
    def batch(self) -> int:
        """Images per iteration."""
        return self.schedule.gpus * self.images

    @property
    def name(self) -> str:
        """Of the config."""
        s = self.schedule
        neck, data = ('_fpn', 'coco') if s.dataset == 'coco' else ('', 'ade20k-{0}x{0}'.format(*s.size))
        return f'{s.head}_twins-{self.backbone}{neck}_{s.gpus}xb{self.images}-{s.ending}_{data}'

    @property
    def log(self) -> 'TrainingLog | None':
        """Of the training, where it is public."""
        return LOGS.get(self.backbone) if self.schedule.title == 'UPerNet' else None

    @property
    def metrics(self) -> dict[str, float]:
        """What is published, by the names of METRICS."""
        pairs = zip(METRICS[self.schedule.dataset], self.result.metrics)
        return {name: value for name, value in pairs if value is not None}


def _published_runs() -> Iterator[PublishedRun]:
    for schedule in SCHEDULES.values():
        backbones = [backbone for backbone in BACKBONES if backbone not in schedule.without]
        for backbone, result in zip(backbones, _RESULTS[schedule.title], strict=True):
            yield PublishedRun(schedule, backbone, result)


RUNS = {run.name: run for run in _published_runs()}


@dataclass(frozen=True)
class TrainingLog:
    """What a public log of UPerNet says.

    Attributes:
        file: In the folder ``logs`` of the public code.
        losses: Loss of the decode head by iteration, a mean over 50 iterations and all GPUs; after 2,500 over 350 to 2,900.
        mious: mIoU in percent by iteration.
        accuracies: Accuracy of the decode head in percent by iteration, averaged in the same way. Ignored pixels count as wrong.
        seconds: Of an iteration, on 8 V100.
    """

    file: str
    losses: dict[int, float]
    mious: dict[int, float]
    accuracies: dict[int, float] = field(default_factory=dict)
    seconds: float | None = None

    def loss_at(self, iterations: np.ndarray) -> np.ndarray:
        """The loss between the values of the table; NaN where the log, as far as it is in the table, says nothing.

        A log of which the table has three values takes the shape of that of SVT-S between them.
        """
        known = np.array(list(self.losses))
        shape = _interpolate(LOG_OF_SVT_S.losses, iterations)
        ratios = np.array(list(self.losses.values())) / _interpolate(LOG_OF_SVT_S.losses, known)
        inside = (iterations >= 0.8 * known.min()) & (iterations <= 1.25 * known.max())
        return np.where(inside, shape * np.interp(np.log(iterations), np.log(known), ratios), np.nan)

    def accuracy_at(self, iterations: np.ndarray) -> np.ndarray:
        """The accuracy in percent of labelled pixels, as MMSegmentation 1.x counts; NaN where nothing is known."""
        if not self.accuracies:
            return np.full(len(iterations), np.nan)
        inside = iterations >= min(self.accuracies)
        return np.where(inside, _interpolate(self.accuracies, iterations) / LABELLED, np.nan)

    def miou_at(self, iteration: int) -> float | None:
        """The mIoU in percent at an iteration, if it is between evaluations of the table."""
        if not min(self.mious) <= iteration <= max(self.mious):
            return None
        return float(_interpolate(self.mious, np.array([iteration]))[0])


def _interpolate(points: dict[int, float], iterations: np.ndarray) -> np.ndarray:
    """Between points, linear over the logarithm of the iteration."""
    return np.interp(np.log(iterations), np.log(list(points)), list(points.values()))


# fmt: off
LOG_OF_SVT_S = TrainingLog(
    'upernet_svt_s.txt',
    losses={
        50: 4.089, 100: 3.960, 150: 3.858, 200: 3.528, 250: 3.252, 300: 2.988, 350: 2.783, 400: 2.660, 450: 2.448, 500: 2.233,
        600: 2.014, 700: 1.892, 800: 1.793, 900: 1.701, 1000: 1.576, 1250: 1.343, 1500: 1.288, 1750: 1.208, 2000: 1.103,
        2500: 1.034, 16_000: 0.592, 31_000: 0.469, 78_500: 0.314, 159_000: 0.229,
    },
    mious={16_000: 39.7, 32_000: 42.1, 80_000: 44.1, 160_000: 46.24},
    accuracies={
        200: 31.5, 250: 33.5, 300: 37.9, 400: 39.7, 500: 42.3, 600: 46.4, 700: 45.2, 800: 46.7, 900: 46.8, 1000: 47.8,
        1250: 49.9, 1500: 51.9, 1750: 52.4, 2000: 52.9, 2500: 54.1, 16_000: 62.7, 31_000: 66.2, 78_500: 70.7,
        159_000: 73.1,
    },
    seconds=0.41,
)
_OTHER_LOGS = {
    'svt-b': TrainingLog('upernet_svt_b.txt', {50: 4.08, 500: 2.20, 1000: 1.49}, {160_000: 47.69}),
    'svt-l': TrainingLog('upernet_svt_l.txt', {50: 4.03, 500: 2.10, 1000: 1.43}, {160_000: 48.77}),
    'pcpvt-s': TrainingLog('upernet_pcpvt_s.txt', {50: 4.07, 500: 2.08, 1000: 1.41}, {160_000: 46.21}),
    'pcpvt-b': TrainingLog('upernet_pcpvt_b.txt', {50: 4.01, 500: 2.00, 1000: 1.40}, {160_000: 47.78}),
    'pcpvt-l': TrainingLog('upernet_pcpvt_l.txt', {50: 3.99, 500: 2.10, 1000: 1.35}, {160_000: 48.59}),
}
# fmt: on
LOGS = {'svt-s': LOG_OF_SVT_S, **_OTHER_LOGS}
# The share of pixels in ADE20K's training crops that are neither padding nor "other". At iteration 50 the auxiliary head of
# SVT-S still gives all 150 classes the same probability and has a loss of 1.630 at a weight of 0.4. MMSegmentation divides by
# all pixels, so this is 0.4 ln 150 times the share.
LABELLED = 1.630 / (0.4 * np.log(150))
