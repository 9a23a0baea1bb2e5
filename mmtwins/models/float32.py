"""Parts of a detector that keep box coordinates in float32 while the rest of a step runs in half precision.

float16 has 11 significant bits: coordinates above 1024 pixels are whole numbers, and areas above 65,504 overflow. The
classes here are those of MMDetection in everything else, and in float32 equal to them bit by bit.
"""

from collections.abc import Sequence
from functools import cache
from types import new_class
from typing import Any, ClassVar

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class _OnMMDetection(nn.Module):
    """A class whose base, ``base`` in MMDetection's registry, joins when the first object is made.

    So ``import mmtwins`` registers the class and works without MMDetection.
    """

    base: ClassVar[str]

    def __new__(cls: Any, *_: Any, **__: Any) -> Any:
        return super().__new__(_complete(cls))

    def __reduce__(self) -> tuple:
        return _new, (getattr(self, 'declared', type(self)),), self.__dict__


@cache
def _complete(cls: type[_OnMMDetection]) -> type[Any]:
    from mmdet.registry import MODELS as MMDET_MODELS

    base = MMDET_MODELS.get(cls.base)
    if issubclass(cls, base):
        return cls
    namespace = dict(__module__=cls.__module__, __doc__=cls.__doc__, declared=cls)
    return new_class(cls.__name__, (cls, base), exec_body=lambda body: body.update(namespace))


def _new(cls: type[_OnMMDetection]) -> Any:
    """An object without attributes, for pickle and deepcopy."""
    return cls.__new__(cls)


@MODELS.register_module()
class Float32RoIExtractor(_OnMMDetection):
    """``SingleRoIExtractor`` that chooses levels and aligns RoIs in float32, whatever the type of the maps.

    MMDetection 3.3 casts RoIs to the type of the maps. In float16, coordinates then move by up to half a pixel, and RoIs of
    more than 65,504 square pixels go to the last level: those of 256 to 448 pixels to P5 instead of P4, in training only.

    Args:
        roi_layer: Config of the RoI layer, such as ``dict(type='RoIAlign', output_size=7, sampling_ratio=0)``.
        out_channels: Channels of the maps.
        featmap_strides: Stride of each map, in pixels.
        finest_scale: RoIs below twice this scale, in pixels, are taken from the first map.

    Source: the public code's ``force_fp32(apply_to=('feats',), out_fp16=True)`` (MMDetection 2.8).
    """

    base = 'SingleRoIExtractor'

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Extract the features of RoIs.

        Args:
            feats: A map (B, C, H, W) per stride.
            rois: (N, 5): index of the image, then x1, y1, x2, y2 in pixels.
            roi_scale_factor: Factor by which RoIs grow around their centres.

        Returns:
            (N, C, height, width) of the RoI layer's size, in the type of the first map.
        """
        if not any(feat.dtype in HALF for feat in feats):
            return super().forward(feats, rois, roi_scale_factor)
        with torch.autocast(rois.device.type, enabled=False):
            maps = super().forward([feat.float() for feat in feats], rois.float(), roi_scale_factor)
        return maps.to(feats[0].dtype)


class _Float32Head(_OnMMDetection):
    """A dense head whose scores and box deltas are float32, so that losses, anchors and boxes made of them are, too."""

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Predict from maps (B, C, H, W): per kind of output a list with a map (B, channels, H, W) per level."""
        return tuple([_float32(level) for level in levels] for levels in super().forward(feats))


def _float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF else x


@MODELS.register_module()
class Float32RPNHead(_Float32Head):
    """``RPNHead`` that makes proposals in float32, whatever the type of the maps.

    MMDetection 3.3 takes anchors in the type of the scores. In float16, proposals in an image of 1344 pixels then move by up
    to 0.8 pixels, and confident ones have equal scores, so that NMS keeps the first instead of the best.

    Args: as ``mmdet.models.RPNHead``.

    Source: the public code's ``force_fp32(apply_to=('cls_scores', 'bbox_preds'))`` (MMDetection 2.8).
    """

    base = 'RPNHead'


@MODELS.register_module()
class Float32RetinaHead(_Float32Head):
    """``RetinaHead`` with losses and boxes in float32, whatever the type of the maps.

    In float16, mmcv's CUDA kernel of the focal loss rounds the loss of easy anchors to a few bits and gives NaN for scores
    of 1, that is logits above 8.3.

    Args: as ``mmdet.models.RetinaHead``.

    Source: the public code's ``force_fp32(apply_to=('cls_scores', 'bbox_preds'))`` (MMDetection 2.8).
    """

    base = 'RetinaHead'
