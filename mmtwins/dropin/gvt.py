"""The names of the public code's gvt.py, for programs that import a copy of it: ``import mmtwins.dropin.gvt as gvt``.

Each takes what :func:`mmtwins.create_model` takes after the name, such as ``pretrained``, ``num_classes`` and
``drop_path_rate``, and returns a :class:`mmtwins.dropin.public_code.PublicClassifier`.
"""

from functools import partial

from .creating import create_model

__all__ = ['alt_gvt_base', 'alt_gvt_large', 'alt_gvt_small', 'pcpvt_base_v0', 'pcpvt_large_v0', 'pcpvt_small_v0']

alt_gvt_small = partial(create_model, 'alt_gvt_small')
alt_gvt_base = partial(create_model, 'alt_gvt_base')
alt_gvt_large = partial(create_model, 'alt_gvt_large')
pcpvt_small_v0 = partial(create_model, 'pcpvt_small_v0')
pcpvt_base_v0 = partial(create_model, 'pcpvt_base_v0')
pcpvt_large_v0 = partial(create_model, 'pcpvt_large_v0')
