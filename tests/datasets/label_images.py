"""What tests of label images share: checking those of a split, and changing all of a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.config import Config
from PIL import Image

from mmtwins.datasets.data_sources import find_sources
from mmtwins.datasets.findings import Finding, Findings
from mmtwins.datasets.label_values import LabelTable
from mmtwins.datasets.labels import check_labels
from mmtwins.datasets.passes import Pass

TRAIN = 'annotations/training'


def check(cfg: Config, fast: bool = False, split: str = 'train') -> tuple[LabelTable | None, dict[str, Finding]]:
    findings = Findings()
    table = check_labels(find_sources(cfg, (split,))[0], findings, Pass(fast=fast))
    return table, {one.code: one for one in findings.finish()}


def change_all(root: Path, change: Callable[[np.ndarray], np.ndarray], folder: str = TRAIN) -> None:
    for path in sorted((root / folder).iterdir()):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)


def save(path: Path, labels: np.ndarray) -> str:
    Image.fromarray(labels).save(path)
    return str(path)
