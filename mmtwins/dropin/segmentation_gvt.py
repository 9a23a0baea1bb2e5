"""The names of the public code's segmentation/gvt.py, for programs that import a copy of it, such as MVSFormer.

Each takes arguments of :class:`mmtwins.dropin.public_code.PublicBackbone`, which it returns.
"""

from functools import partial
from typing import Any

from .names import look_up
from .public_code import PublicBackbone

__all__ = ['alt_gvt_base', 'alt_gvt_large', 'alt_gvt_small', 'pcpvt_base_v0', 'pcpvt_large', 'pcpvt_small_v0']


def _build(model_name: str, drop_path_rate: float, **arguments: Any) -> PublicBackbone:
    named = look_up(model_name)
    defaults = dict(named.arguments, drop_path_rate=drop_path_rate, extra_norm=named.family == 'svt')
    model = PublicBackbone(**{**defaults, **arguments})
    model.pretrained_cfg = model.default_cfg = named.description
    return model


alt_gvt_small = partial(_build, 'alt_gvt_small', drop_path_rate=0.2)
alt_gvt_base = partial(_build, 'alt_gvt_base', drop_path_rate=0.2)
alt_gvt_large = partial(_build, 'alt_gvt_large', drop_path_rate=0.3)
pcpvt_small_v0 = partial(_build, 'pcpvt_small_v0', drop_path_rate=0.2)
pcpvt_base_v0 = partial(_build, 'pcpvt_base_v0', drop_path_rate=0.2)
pcpvt_large = partial(_build, 'pcpvt_large', drop_path_rate=0.2)
