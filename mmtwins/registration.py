"""What `import mmtwins` registers with MMEngine, and the names that the package offers."""

from mmengine.config.utils import MODULE2PACKAGE

from .engine.channels_last import ChannelsLastHook
from .engine.checkpoint_hook import SafeCheckpointHook
from .engine.class_order import MatchClassesHook
from .engine.divergence import StopOnDivergenceHook
from .engine.find_loader import restore_find_loader
from .engine.hooks import CheckBatchSizeHook, CountFaultsHook, FitCheckpointHook, ReturnMemoryHook
from .engine.loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from .engine.optim import TwinsLayerDecayConstructor
from .engine.pictures_hook import TrainingPicturesHook
from .engine.recompute import replace_activation_checkpointing
from .engine.resume_hook import ExactResumeHook
from .engine.stopping import StopOnSignalHook
from .engine.transforms import CheckImage, CheckLabels
from .engine.warmup_cosine import WarmUpCosineLR
from .installing import package_of
from .models.backbone import TwinsPCPVTBackbone, TwinsSVTBackbone
from .models.fast_path import fast_path
from .models.float32 import Float32RetinaHead, Float32RoIExtractor, Float32RPNHead
from .weights.loading import replace_mmengine_loaders, restore_mmengine_loaders

__all__ = [
    'ChannelsLastHook',
    'CheckBatchSizeHook',
    'CheckImage',
    'CheckLabels',
    'CountFaultsHook',
    'ExactResumeHook',
    'FitCheckpointHook',
    'Float32RPNHead',
    'Float32RetinaHead',
    'Float32RoIExtractor',
    'MatchClassesHook',
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
    'WarmUpCosineLR',
    'fast_path',
    'replace_mmengine_loaders',
    'restore_mmengine_loaders',
]

restore_find_loader()
replace_mmengine_loaders()
replace_activation_checkpointing()
# MMEngine looks up there which package has the configs of _base_ = 'mmtwins::NAME.py' and 'mmseg::NAME.py'.
MODULE2PACKAGE.setdefault('mmtwins', 'mmtwins')
if package_of('mmseg') != 'mmsegmentation':
    MODULE2PACKAGE['mmseg'] = package_of('mmseg')
