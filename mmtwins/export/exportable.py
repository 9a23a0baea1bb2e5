"""Models as functions of their images that any exporter can follow, and what a file must say about them."""

import copy
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn

from ..datasets.dataset_info import metainfo_of, named_classes
from ..engine.model import build_model
from ..models.backbone import TwinsBackbone
from ..weights.applying import load_weights
from ..weights.loading import load_safely, naming_checkpoint

MMDEPLOY = '`pip install --no-deps mmdeploy==1.3.1`'  # its own requirements would downgrade protobuf


class ExportableSegmentor(nn.Module):
    """An EncoderDecoder as one function of its images, all of whose operations take any size.

    Args:
        model: Segmentor of MMSegmentation; a copy in eval mode is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        copied = _for_any_size(model)
        self.backbone, self.decode_head = copied.backbone, copied.decode_head
        self.neck = copied.neck if copied.with_neck else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, classes, H, W)."""
        logits = self.decode_head(self.neck(self.backbone(images)))
        align_corners = self.decode_head.align_corners
        return F.interpolate(logits, size=images.shape[2:], mode='bilinear', align_corners=align_corners)


class ExportableFeatures(nn.Module):
    """Backbone and neck of a model as one function of its images.

    Args:
        model: Segmentor or detector with a neck; a copy of both in eval mode is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        detector: Any = model
        kept = _for_any_size(nn.ModuleDict(dict(backbone=detector.backbone, neck=detector.neck)))
        self.backbone, self.neck = kept['backbone'], kept['neck']

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images (B, C, H, W) -> one (B, channels, H_i, W_i) map per level."""
        return tuple(self.neck(self.backbone(images)))


def _for_any_size(model: nn.Module) -> Any:
    """A copy in eval mode, without operations that a graph has for a fixed size only."""
    copied = revert_sync_batchnorm(copy.deepcopy(model)).eval()
    for module in copied.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d):
                setattr(module, name, AreaPool(cast(int | Sequence[int], child.output_size)))  # no head has None
            elif _is_upsample_of_mmseg(child):  # it rounds the size to a number, which a trace keeps
                options = dict(scale_factor=child.scale_factor, mode=child.mode, align_corners=child.align_corners)
                setattr(module, name, nn.Upsample(**options))
    return copied


def _is_upsample_of_mmseg(module: Any) -> bool:
    kind = type(module)
    return kind.__module__.startswith('mmseg.') and kind.__name__ == 'Upsample' and not module.size


class AreaPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two matrix products, which ONNX has for any size: it has pooling for fixed ones only.

    Args:
        output_size: Height and width of the output, or one side of a square.
    """

    def __init__(self, output_size: int | Sequence[int]) -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, height, width)."""
        rows, columns = (_averages(n, size, x) for n, size in zip(self.output_size, x.shape[2:], strict=True))
        return rows @ x @ columns.T


def _averages(n: int, size: int, like: Tensor) -> Tensor:
    """(n, size): the weight of each of ``size`` positions in ``n`` averages, as adaptive pooling cuts them."""
    index, position = torch.arange(n, device=like.device)[:, None], torch.arange(size, device=like.device)
    start, end = index * size // n, ((index + 1) * size + n - 1) // n
    is_inside = (position >= start) & (position < end)
    return is_inside.to(like.dtype) / (end - start)


def build_exportable(
    cfg: Config, checkpoint: str | None, backbone_only: bool = False, with_neck: bool = False
) -> nn.Module:
    """Build what is exported of a config, with the weights of a checkpoint.

    Args:
        cfg: Of a segmentor of MMSegmentation, or of any model for its backbone. All of a detector of MMDetection needs
            mmdeploy, see :mod:`mmtwins.export.detectors`.
        checkpoint: As ``mmtwins.weights.loading.read_checkpoint`` takes it; None for weights as initialised.
        backbone_only: Leave out everything but the backbone.
        with_neck: Leave out everything but backbone and neck.

    Returns:
        A module in eval mode, from images to logits or to maps, or the detector as it is; ``dataset_meta`` is what the
        checkpoint notes of its data set.

    Raises:
        ValueError: It is no Twins model, no segmentor, has no neck, or the checkpoint does not fit.
    """
    init_default_scope(cfg.get('default_scope'))
    model = build_model(cfg)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TwinsBackbone):
        raise ValueError(f'{cfg.filename} has no Twins backbone: only that can be exported')
    if with_neck and not isinstance(getattr(model, 'neck', None), nn.Module):
        raise ValueError(f'{cfg.filename} has no neck: export its backbone alone with --backbone')
    whole = not (backbone_only or with_neck)
    if whole and not hasattr(model, 'decode_head') and not (is_detector(model) and find_spec('mmdeploy')):
        raise ValueError(
            f'{cfg.filename} is no segmentor: export its backbone with --backbone, or backbone and neck with --neck. '
            f'All of a detector needs mmdeploy: {MMDEPLOY}'
        )
    noted = {}
    if checkpoint is not None:
        content = load_safely(checkpoint)
        with naming_checkpoint(checkpoint):
            load_weights(backbone if backbone_only else model, content, for_predictions=not backbone_only)
        noted = metainfo_of(content)
    exportable: Any
    if backbone_only:
        exportable = backbone
    elif with_neck:
        exportable = ExportableFeatures(model)
    else:
        exportable = model if is_detector(model) else ExportableSegmentor(model)
    exportable.dataset_meta = noted
    return exportable.eval()


def is_detector(model: nn.Module) -> bool:
    """Whether a model is a whole detector of MMDetection, with one stage or two."""
    return hasattr(model, 'bbox_head') or hasattr(model, 'roi_head')


def describe(cfg: Config, model: nn.Module, checkpoint: str | None) -> dict[str, str]:
    """What a user of an exported file must know of it, as the exporters write it into the file.

    Args:
        cfg: Of the model.
        model: As :func:`build_exportable` returns it.
        checkpoint: Where its weights come from.

    Returns:
        Text by key. ``mean`` and ``std``: JSON lists by which images are normalised, in the order of channels that
        ``channel_order`` says (RGB or BGR), for pixels from 0 to 255. ``classes``: a JSON list of names in the order of
        the logits of a segmentor or the labels of a detector, where the checkpoint or the data set of the config says them.
        ``checkpoint``, ``config``.
    """
    preprocessor = cfg.model.get('data_preprocessor') or {}
    mean, std = (list(preprocessor.get(key) or ()) for key in ('mean', 'std'))
    found = {'mean': json.dumps(mean), 'std': json.dumps(std)} if mean and std else {}
    found['channel_order'] = 'RGB' if preprocessor.get('bgr_to_rgb') else 'BGR'
    if not isinstance(model, TwinsBackbone | ExportableFeatures):
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            classes = named_classes(cfg, cast(dict, model.dataset_meta))
        found |= {'classes': json.dumps(classes)} if classes else {}
    return {**found, 'checkpoint': checkpoint or 'none', 'config': Path(cfg.filename or '').name}


def name_outputs(model: nn.Module, num_outputs: int) -> list[str]:
    """Name the outputs of what is exported.

    Args:
        model: As :func:`build_exportable` returns it.
        num_outputs: Number of tensors that it returns.

    Returns:
        ``logits`` of a segmentor; ``stage1`` and so on of a backbone, by its ``out_indices``; ``level1`` and so on of a neck.
    """
    if isinstance(model, TwinsBackbone):
        return [f'stage{i + 1}' for i in model.out_indices]
    if isinstance(model, ExportableFeatures):
        return [f'level{i + 1}' for i in range(num_outputs)]
    return ['logits']
