"""ONNX files of a backbone or a whole segmentor, for one size or for all, checked with ONNX Runtime."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from .engine.model import build_model
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
        A module in eval mode, from images to logits or to maps.

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
    if checkpoint is not None:
        content = load_safely(checkpoint)
        with naming_checkpoint(checkpoint):
            load_weights(backbone if backbone_only else model, content, for_predictions=not backbone_only)
    return backbone.eval() if backbone_only else ExportableSegmentor(model)


def export_onnx(
    model: nn.Module, path: str | Path, height: int, width: int, channels: int = 3, dynamic: bool = True
) -> None:
    """Write a model from images to maps as ONNX.

    Args:
        model: In eval mode.
        path: File to write; large weights go beside it, into a file of the same name that ends in .data.
        height: Of the images to trace, in pixels.
        width: Of the images to trace, in pixels.
        channels: Of the images.
        dynamic: Whether the file takes any batch, height and width.

    Raises:
        ImportError: ONNX is not installed.
        ValueError: The size is too small to trace.
    """
    _require('onnx', 'onnxscript')
    if dynamic and min(height, width) < MIN_SIDE:
        raise ValueError(f'{height} x {width} pixels are too small to trace: give at least {MIN_SIDE} x {MIN_SIDE}')
    images = torch.randn(2 if dynamic else 1, channels, height, width)
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            dynamic_shapes=(dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),) if dynamic else None,
            opset_version=OPSET,
            input_names=['images'],
            verbose=False,
        )
    assert program is not None  # as it is without dynamo=True
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))


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
    _require('onnxruntime')
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for shape in shapes:
        images = torch.randn(shape)
        with torch.no_grad():
            expected = model(images)
        expected = [expected] if isinstance(expected, Tensor) else expected
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
        raise ImportError(f"{', '.join(missing)} is not installed: pip install 'mmtwins[export]'")
