"""Twins-SVT backbone (arXiv:2104.13840) for MMSegmentation and MMDetection.

Importing this package registers its modules in MMEngine's root registries, which mmseg and mmdet fall back to, and
lets ``torch.load`` read MMEngine's checkpoints safely.
"""

from .backbone import TwinsSVTBackbone
from .checkpoint import allow_mmengine_checkpoints
from .transforms import CheckLabels

__version__ = '0.1.0'
__all__ = ['CheckLabels', 'TwinsSVTBackbone']

allow_mmengine_checkpoints()
