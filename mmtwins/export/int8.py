"""Static quantisation to int8 by ONNX Runtime, calibrated with images."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..engine.console import only_errors
from .runtimes import Runner, as_runner, require

QUANTIZED = ['Conv', 'Gemm', 'MatMul']  # operators with weights; attention itself stays in float32
AGREEMENT = 0.8  # of pixels, or of the cosine of maps: less means that the calibration images do not fit the model


def quantize(source: str | Path, target: str | Path, batches: Iterable[np.ndarray]) -> None:
    """Quantise an ONNX file: weights per channel and their inputs to 8 bits; the rest stays as it is.

    Args:
        source: ONNX file in float32.
        target: File to write, in ONNX's QDQ format.
        batches: Normalised images, (B, C, H, W) float32; the ranges of all inputs are taken from them.

    Raises:
        ImportError: ONNX or ONNX Runtime is not installed.
        ValueError: There are no images.
    """
    require('onnx', 'onnxruntime')
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    waiting = iter(batches)
    first = next(waiting, None)
    if first is None:
        raise ValueError('there are no calibration images: give some of the kind that the model will see')
    all_batches = chain([first], waiting)

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(all_batches, None)
            return None if batch is None else {'images': batch}

    with only_errors(logging.root), tempfile.TemporaryDirectory() as folder:  # it warns through the root logger
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            op_types_to_quantize=QUANTIZED,
            nodes_to_exclude=_without_weights(prepared),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _without_weights(path: Path) -> list[str]:
    """The products of attention and pooling, by the names of their nodes: neither factor is a weight."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    return [node.name for node in graph.node if node.op_type == 'MatMul' and not weights & set(node.input)]


def calibration_images(
    paths: Sequence[str | Path], height: int, width: int, metadata: Mapping[str, str]
) -> Iterator[np.ndarray]:
    """Read images as an exported model takes them.

    Args:
        paths: Image files.
        height: To resize them to, in pixels.
        width: To resize them to, in pixels.
        metadata: ``mean``, ``std`` and ``channel_order`` of :func:`mmtwins.export.describe`.

    Yields:
        (1, 3, H, W) float32.

    Raises:
        ValueError: A file is no image.
    """
    import cv2

    mean, std = (
        np.array(json.loads(metadata.get(key, '[]')) or [default], np.float32)
        for key, default in (('mean', 0.0), ('std', 1.0))
    )
    for path in paths:
        content = np.fromfile(path, np.uint8)
        image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if image is None:
            raise ValueError(f'{path} is no image that OpenCV reads: leave it out of the calibration images')
        if metadata.get('channel_order') == 'RGB':
            image = image[..., ::-1]
        image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR)
        yield ((image.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]


def agreement(model: nn.Module, run: Runner, batches: Iterable[np.ndarray]) -> float:
    """How far a quantised file agrees with its model.

    Args:
        model: In PyTorch.
        run: Runs the file.
        batches: As for :func:`quantize`.

    Returns:
        Of a segmentor, the share of pixels with the same class; of maps, the least cosine between the two.
    """
    eager, found = as_runner(model), []
    for batch in batches:
        images = torch.from_numpy(np.ascontiguousarray(batch))
        expected, outputs = eager(images), run(images)
        if len(expected) == 1 and hasattr(model, 'decode_head'):
            found.append((outputs[0].argmax(1) == expected[0].argmax(1)).float().mean().item())
        else:
            found.append(min(_cosine(*pair) for pair in zip(outputs, expected, strict=True)))
    return sum(found) / len(found)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def check_agreement(share: float, images: int) -> None:
    """Refuse a quantised file that does something else than its model.

    Raises:
        ValueError: It agrees less than :data:`AGREEMENT`.
    """
    if not share >= AGREEMENT:
        raise ValueError(
            f'the int8 file agrees with the model on {share:.3f} of {images} calibration images, less than {AGREEMENT}: '
            'calibrate with more images, and with those that the model was trained for'
        )
