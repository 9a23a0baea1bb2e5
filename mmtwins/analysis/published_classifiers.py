"""What the Twins authors published of their ImageNet classifiers, which mmtwins.analysis.published has of dense models.

Source: paper (arXiv:2104.13840v4, table 1) and public code (Meituan-AutoML/Twins: ``main.py``, README, and the logs in
``logs/``). Where they disagree, docs/reproduction.md says what we follow.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassifierRun:
    """A training on ImageNet-1k by ``main.py`` of the public code, and what its authors got.

    Attributes:
        backbone: One of BACKBONES.
        accuracy: Top-1 accuracy in percent (paper, table 1; public README).
        parameters: In M (paper, table 1).
        macs: In G: paper, public README.
        drop_path: Highest rate of stochastic depth.
        log_rate: Highest learning rate in the public log; it is not the same for all.
        log_parameters: Number of parameters in the public log.
    """

    backbone: str
    accuracy: float
    parameters: float
    macs: tuple[float, float]
    drop_path: float
    log_rate: float
    log_parameters: int

    gpus = 8
    images = 128  # per GPU
    epochs = 300
    rate = 1e-3  # 5e-4 for 512 images
    warmup = 5  # epochs
    warmup_start = 1e-6
    final_rate = 1e-5
    weight_decay = 0.05
    clip_norm = 5.0
    size = 224  # pixels

    @property
    def batch(self) -> int:
        """Images per iteration."""
        return self.gpus * self.images

    @property
    def name(self) -> str:
        """Of the config."""
        return f'twins-{self.backbone}_{self.gpus}xb{self.images}-{self.epochs}e_in1k'

    @property
    def log(self) -> str:
        """Of the training, in the folder ``logs`` of the public code."""
        return f'{self.backbone.replace("-", "_")}.txt'

    def learning_rates(self, epochs: np.ndarray, rate: float | None = None) -> np.ndarray:
        """The learning rate in epochs counted from 0, in closed form; see :class:`mmtwins.engine.warmup_cosine.WarmUpCosineLR`.

        Args:
            epochs: Finished epochs.
            rate: Highest rate, for another batch; None takes ``rate``.

        Returns:
            (len(epochs),)
        """
        highest, step = rate or self.rate, np.maximum(epochs - 1, 0)
        rising = self.warmup_start + (highest - self.warmup_start) * step / self.warmup
        falling = self.final_rate + (highest - self.final_rate) * (1 + np.cos(np.pi * step / self.epochs)) / 2
        return np.where(step < self.warmup, rising, falling)


_CLASSIFIERS = (
    ClassifierRun('svt-s', 81.7, 24, (2.9, 2.8), 0.2, 2e-3, 24_060_776),
    ClassifierRun('svt-b', 83.2, 56, (8.6, 8.3), 0.3, 1e-3, 56_070_952),
    ClassifierRun('svt-l', 83.7, 99.2, (15.1, 14.8), 0.5, 1e-3, 99_271_400),
    ClassifierRun('pcpvt-s', 81.2, 24.1, (3.8, 3.7), 0.2, 1.25e-3, 24_106_216),
    ClassifierRun('pcpvt-b', 82.7, 43.8, (6.7, 6.4), 0.3, 1e-3, 43_828_456),
    ClassifierRun('pcpvt-l', 83.1, 60.9, (9.8, 9.5), 0.5, 1e-3, 60_989_672),
)
CLASSIFIERS = {run.name: run for run in _CLASSIFIERS}
