"""ONNX files of a backbone or a whole segmentor, for one size or for all, checked with ONNX Runtime."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope
from torch import Tensor, nn

from .datasets.dataset_info import metainfo_of, named_classes
from .engine.model import build_model
from .installing import how_to_install
from .models.backbone import TwinsBackbone
from .weights.applying import load_weights
from .weights.loading import load_safely, naming_checkpoint

OPSET = 18  # the least that PyTorch's exporter writes
MIN_SIDE = 64  # of an image to trace, in pixels: sizes of 1 would be taken for constants
TOLERANCE = 1e-4  # of outputs, relative to the largest value


class ExportableSegmentor(nn.Module):
    """An EncoderDecoder as one function of its images, all of whose operations take any size.

    Args:
        model: Segmentor of MMSegmentation; a copy in eval mode is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        copied: Any = revert_sync_batchnorm(copy.deepcopy(model)).eval()
        for module in copied.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, AreaPool(cast(int | Sequence[int], child.output_size)))  # no head has None
        self.backbone, self.decode_head = copied.backbone, copied.decode_head
        self.neck = copied.neck if copied.with_neck else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, classes, H, W)."""
        logits = self.decode_head(self.neck(self.backbone(images)))
        align_corners = self.decode_head.align_corners
        return F.interpolate(logits, size=images.shape[2:], mode='bilinear', align_corners=align_corners)


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


def build_exportable(cfg: Config, checkpoint: str | None, backbone_only: bool = False) -> nn.Module:
    """Build what is exported of a config, with the weights of a checkpoint.

    Args:
        cfg: Of a segmentor of MMSegmentation, or of any model for its backbone.
        checkpoint: As ``mmtwins.weights.loading.read_checkpoint`` takes it; None for weights as initialised.
        backbone_only: Leave out everything but the backbone.

    Returns:
        A module in eval mode, from images to logits or to maps; ``dataset_meta`` is what the checkpoint notes of its data
        set.

    Raises:
        ValueError: It is no Twins model, no segmentor, or the checkpoint does not fit.
    """
    init_default_scope(cfg.get('default_scope'))
    model = build_model(cfg)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TwinsBackbone):
        raise ValueError(f'{cfg.filename} has no Twins backbone: only that can be exported')
    if not backbone_only and not hasattr(model, 'decode_head'):
        raise ValueError(f'{cfg.filename} is no segmentor: export its backbone alone with --backbone')
    noted = {}
    if checkpoint is not None:
        content = load_safely(checkpoint)
        with naming_checkpoint(checkpoint):
            load_weights(backbone if backbone_only else model, content, for_predictions=not backbone_only)
        noted = metainfo_of(content)
    exportable: Any = backbone if backbone_only else ExportableSegmentor(model)
    exportable.dataset_meta = noted
    return exportable.eval()


def describe(cfg: Config, model: nn.Module, checkpoint: str | None) -> dict[str, str]:
    """What a user of an exported file must know of it, as ``export_onnx`` writes it into the file.

    Args:
        cfg: Of the model.
        model: As :func:`build_exportable` returns it.
        checkpoint: Where its weights come from.

    Returns:
        Text by key. ``mean`` and ``std``: JSON lists by which images are normalised, in the order of channels that
        ``channel_order`` says (RGB or BGR), for pixels from 0 to 255. ``classes``: a JSON list of names in the order of
        the logits of a segmentor, where the checkpoint or the data set of the config says them. ``checkpoint``, ``config``.
    """
    preprocessor = cfg.model.get('data_preprocessor') or {}
    mean, std = (list(preprocessor.get(key) or ()) for key in ('mean', 'std'))
    found = {'mean': json.dumps(mean), 'std': json.dumps(std)} if mean and std else {}
    found['channel_order'] = 'RGB' if preprocessor.get('bgr_to_rgb') else 'BGR'
    if not isinstance(model, TwinsBackbone):
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            classes = named_classes(cfg, cast(dict, model.dataset_meta))
        found |= {'classes': json.dumps(classes)} if classes else {}
    return {**found, 'checkpoint': checkpoint or 'none', 'config': Path(cfg.filename or '').name}


def export_onnx(
    model: nn.Module,
    path: str | Path,
    height: int,
    width: int,
    channels: int = 3,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a model from images to maps as ONNX.

    The input is called ``images``. The output of a segmentor is ``logits``; those of a backbone are ``stage1`` and so on,
    by its ``out_indices``. Axes of any size are called ``batch``, ``height`` and ``width``.

    Args:
        model: In eval mode.
        path: File to write; large weights go beside it, into a file of the same name that ends in .data.
        height: Of the images to trace, in pixels.
        width: Of the images to trace, in pixels.
        channels: Of the images.
        dynamic: Whether the file takes any batch, height and width.
        metadata: Written into the file, see :func:`describe`.

    Raises:
        ImportError: ONNX is not installed.
        ValueError: The size is too small to trace.
    """
    _require('onnx', 'onnxscript')
    if dynamic and min(height, width) < MIN_SIDE:
        raise ValueError(f'{height} x {width} pixels are too small to trace: give at least {MIN_SIDE} x {MIN_SIDE}')
    images = torch.randn(2 if dynamic else 1, channels, height, width, device=next(model.parameters()).device)
    with torch.no_grad(), _without_notes():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            dynamic_shapes=({0: 'batch', 2: 'height', 3: 'width'},) if dynamic else None,
            opset_version=OPSET,
            input_names=['images'],
            output_names=[f'stage{i + 1}' for i in model.out_indices]
            if isinstance(model, TwinsBackbone)
            else ['logits'],
            verbose=False,
        )
    assert program is not None  # as it is without dynamo=True
    program.model.metadata_props.update(metadata or {})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))


@contextmanager
def _without_notes() -> Iterator[None]:
    """Silence what the exporter says to its own developers: operators of torchvision that are missing, old calls."""
    logger = logging.getLogger('torch.onnx._internal.exporter._registration')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', r'`isinstance\(treespec, LeafSpec\)` is deprecated', FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def verify_onnx(
    model: nn.Module, path: str | Path, shapes: Sequence[tuple[int, int, int, int]]
) -> Iterator[tuple[tuple[int, ...], float]]:
    """Compare an ONNX file in ONNX Runtime with the model in PyTorch.

    Args:
        model: What was exported.
        path: The file.
        shapes: (B, C, H, W) of random images.

    Yields:
        Each shape with the largest difference of any output, relative to the largest value of that output.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: A difference is larger than :data:`TOLERANCE`, or the file does not take the shape.
    """
    if not shapes:
        return
    _require('onnxruntime')
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images.to(next(model.parameters()).device))
        expected = [maps.cpu() for maps in ([expected] if isinstance(expected, Tensor) else expected)]
        try:
            outputs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        except Exception as error:  # onnxruntime's own, without a common class that it documents
            raise ValueError(f'{path} does not run on {shape}: {error}') from error
        difference = 0.0
        for actual, wanted in zip(map(torch.from_numpy, outputs), expected, strict=True):
            if actual.shape != wanted.shape:
                raise ValueError(f'{path} gives {tuple(actual.shape)} for {shape}, not {tuple(wanted.shape)}')
            difference = max(difference, ((actual - wanted).abs().max() / wanted.abs().max()).item())
        if not difference <= TOLERANCE:
            raise ValueError(
                f'{path} differs by {difference:.2g} on {shape}, more than {TOLERANCE:g} of the largest value'
            )
        yield shape, difference


def _require(*modules: str) -> None:
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: {how_to_install("export")}')
