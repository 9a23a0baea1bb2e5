"""The recipes by name, what their names say, and their configs and models, each read once."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config

from mmtwins.analysis.published import RUNS, PublishedRun
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model

CONFIGS = Path(__file__).parents[1] / 'configs'
NAMES = sorted(RUNS)
EMBED_DIMS = {
    'svt-s': [64, 128, 256, 512],
    'svt-b': [96, 192, 384, 768],
    'svt-l': [128, 256, 512, 1024],
    **{f'pcpvt-{size}': [64, 128, 320, 512] for size in 'sbl'},
}
DEPTHS = {
    'svt-s': [2, 2, 10, 4],
    'svt-b': [2, 2, 18, 2],
    'svt-l': [2, 2, 18, 2],
    'pcpvt-s': [3, 4, 6, 3],
    'pcpvt-b': [3, 4, 18, 3],
    'pcpvt-l': [3, 8, 27, 3],
}


@dataclass(frozen=True)
class Recipe:
    """What the name of a config promises."""

    name: str
    head: str
    backbone: str
    gpus: int
    images_per_gpu: int
    schedule: str
    dataset: str

    @property
    def path(self) -> Path:
        return CONFIGS / self.dataset / f'{self.name}.py'

    @property
    def published(self) -> PublishedRun:
        return RUNS[self.name]

    @property
    def cfg(self) -> Config:
        """A copy that a test may change."""
        return _load(str(self.path)).copy()

    @property
    def model(self) -> torch.nn.Module:
        """The model without values (on the meta device), shared by the tests."""
        return _build_on_meta(str(self.path))


def parse_name(name: str) -> Recipe:
    match = re.fullmatch(
        r'(\w[\w-]*?)_twins-(\w+-\w)(?:_fpn)?_(\d+)xb(\d+)-(?:[\w-]*-)?(160k|80k|1x|3x)_(ade20k|coco)(?:-512x512)?',
        name,
    )
    head, backbone, gpus, images, schedule, dataset = match.groups()
    return Recipe(name, head, backbone, int(gpus), int(images), schedule, dataset)


def step_of(pipeline: list[dict], kind: str) -> dict:
    """The first step of a data pipeline that has a type."""
    return next(step for step in pipeline if step['type'] == kind)


RECIPES = [parse_name(name) for name in NAMES]


@cache
def _load(path: str) -> Config:
    return load_config(path)


@cache
def _build_on_meta(path: str) -> torch.nn.Module:
    with torch.device('meta'):
        return build_model(_load(path).copy())
