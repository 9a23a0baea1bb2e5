"""Twins-SVT and Twins-PCPVT backbones (arXiv:2104.13840) for MMSegmentation and MMDetection.

Importing this package registers its modules in MMEngine's root registries, which mmseg and mmdet fall back to, makes
``_base_ = 'mmtwins::ade20k/NAME.py'`` work, and lets MMEngine read its own checkpoints safely, .safetensors
files and ``hf-hub:`` references.
"""

from mmengine.config.utils import MODULE2PACKAGE

from .backbone import TwinsPCPVTBackbone, TwinsSVTBackbone
from .hooks import CheckBatchSizeHook, FitCheckpointHook
from .inference import infer
from .loading import allow_mmengine_checkpoints
from .transforms import CheckImage, CheckLabels

__version__ = '0.1.0'
__all__ = [
    'CheckBatchSizeHook',
    'CheckImage',
    'CheckLabels',
    'FitCheckpointHook',
    'TwinsPCPVTBackbone',
    'TwinsSVTBackbone',
    'infer',
]

allow_mmengine_checkpoints()
MODULE2PACKAGE.setdefault('mmtwins', 'mmtwins')  # MMEngine looks up _base_ = 'mmtwins::ade20k/NAME.py' there
