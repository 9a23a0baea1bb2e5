"""Twins-SVT and Twins-PCPVT backbones (arXiv:2104.13840) for MMSegmentation and MMDetection.

Importing this package registers its modules in MMEngine's root registries, which mmseg and mmdet fall back to. It makes
``_base_ = 'mmtwins::ade20k/NAME.py'`` work, and MMEngine reads every checkpoint as weights only, see
:mod:`mmtwins.weights.loading`. The import needs torch and MMEngine alone; :func:`infer` is imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmengine.config.utils import MODULE2PACKAGE

from .engine.checkpoint_hook import SafeCheckpointHook
from .engine.divergence import StopOnDivergenceHook
from .engine.hooks import CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook, ReturnMemoryHook
from .engine.loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from .engine.optim import TwinsLayerDecayConstructor
from .engine.pictures_hook import TrainingPicturesHook
from .engine.recompute import replace_activation_checkpointing
from .engine.resume_hook import ExactResumeHook
from .engine.stopping import StopOnSignalHook
from .engine.transforms import CheckImage, CheckLabels
from .models.backbone import TwinsPCPVTBackbone, TwinsSVTBackbone
from .models.fast_path import fast_path
from .models.float32 import Float32RetinaHead, Float32RoIExtractor, Float32RPNHead
from .weights.loading import allow_mmengine_checkpoints

if TYPE_CHECKING:
    from .inference.predictor import infer

__version__ = '0.1.0'
__all__ = [
    'CheckBatchSizeHook',
    'CheckImage',
    'CheckLabels',
    'CountFaultsHook',
    'ExactResumeHook',
    'FitCheckpointHook',
    'Float32RPNHead',
    'Float32RetinaHead',
    'Float32RoIExtractor',
    'ResumableEpochBasedTrainLoop',
    'ResumableIterBasedTrainLoop',
    'ReturnMemoryHook',
    'SafeCheckpointHook',
    'StopOnDivergenceHook',
    'StopOnSignalHook',
    'TrainingPicturesHook',
    'TwinsLayerDecayConstructor',
    'TwinsPCPVTBackbone',
    'TwinsSVTBackbone',
    'fast_path',
    'infer',
]

allow_mmengine_checkpoints()
replace_activation_checkpointing()
MODULE2PACKAGE.setdefault('mmtwins', 'mmtwins')  # MMEngine looks up _base_ = 'mmtwins::ade20k/NAME.py' there


def __getattr__(name: str) -> Any:
    if name == 'infer':
        return import_module('.inference.predictor', __name__).infer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
