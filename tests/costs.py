"""Models and configs whose costs are counted in several tests."""

import importlib.util
from pathlib import Path

import pytest

from mmtwins import TwinsSVTBackbone
from mmtwins.analysis.counting import Complexity, build_model, count
from mmtwins.engine.config import load_config

CONFIGS = Path(__file__).parents[1] / 'configs'
UPERNET = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
TINY = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))


def tiny_backbone(**kwargs) -> TwinsSVTBackbone:
    return TwinsSVTBackbone(arch=TINY, window_sizes=(7, 7), sr_ratios=(4, 2), out_indices=(0, 1), **kwargs)


def require_libraries() -> None:
    """Skip a test where MMSegmentation, MMDetection or mmcv's operators are missing."""
    for package in ('mmseg', 'mmdet', 'mmcv._ext'):
        if importlib.util.find_spec(package.partition('.')[0]) is None or importlib.util.find_spec(package) is None:
            pytest.skip(f'needs {package}')


def count_config(path: Path, height: int, width: int, **options: object) -> Complexity:
    """The complexity of a config's model."""
    require_libraries()
    return count(build_model(load_config(str(path), options)), height, width)
