"""See whether a model runs, from its images to the outputs of its heads, on tensors without values."""

import copy
from functools import reduce
from operator import getitem
from typing import Any

from mmengine.config import Config

from ..analysis.counting import build_model, count
from .refusing import CannotSwap

SIDE = 512  # of the image, in pixels; SSD takes none below 300, LR-ASPP pools 49 x 49 maps


def check_runs(before: Config, after: Config, path: tuple[str, ...]) -> None:
    """Refuse a swap if the model runs before it, but not after it.

    Args:
        before, after: Configs of the model.
        path: Keys of the segmentor or detector, from the top of the config.

    Raises:
        CannotSwap: The model with Twins does not run; the message has its error.
    """
    problem = _problem(after, path)
    if problem and not _problem(before, path):
        raise CannotSwap(f'with Twins it does not run: {problem}')


def _problem(cfg: Config, path: tuple[str, ...]) -> str | None:
    try:
        count(build_model(holder_config(cfg, path)), SIDE, SIDE)
    except Exception as error:
        return ' '.join(str(error).split())[:300]
    return None


def holder_config(cfg: Config, path: tuple[str, ...]) -> Config:
    """A config of the segmentor or detector in a model alone, with a copy of it.

    Args:
        cfg: Config of the model.
        path: Keys of the segmentor or detector, from the top of the config.
    """
    part: Any = copy.deepcopy(reduce(getitem, path, cfg))  # the classes of MMDetection change what they are built from
    return Config(dict(model=part, default_scope=cfg.get('default_scope')))
