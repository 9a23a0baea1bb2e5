"""Static quantisation: what is quantised, from which pixels, and when it is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmtwins.export.int8 import agreement, calibration_images, check_agreement, quantize
from mmtwins.export.runtimes import open_file, write_file

METADATA = dict(mean=json.dumps([10.0, 20.0, 30.0]), std=json.dumps([2.0, 4.0, 5.0]), channel_order='RGB')


def test_weights_are_quantised_and_attention_is_not(backbone: nn.Module, onnx_packages: None, tmp_path: Path) -> None:
    import onnx

    source, target = tmp_path / 'a.onnx', tmp_path / 'b.onnx'
    write_file(backbone, source, 'onnx-legacy', 64, 64, dynamic=False)
    batches = [np.random.default_rng(i).normal(size=(1, 3, 64, 64)).astype(np.float32) for i in range(2)]
    quantize(source, target, iter(batches))
    nodes = onnx.load(target).graph.node
    quantised = {name for node in nodes if node.op_type == 'DequantizeLinear' for name in node.output}
    linear = [node for node in nodes if node.op_type in ('Conv', 'MatMul', 'Gemm')]
    weights = sum(isinstance(module, nn.Linear | nn.Conv2d) for module in backbone.modules())
    whole = [node for node in linear if set(node.input[:2]) <= quantised]
    assert len(whole) == weights
    attention = [node for node in linear if not set(node.input[:2]) & quantised]
    assert len(attention) == len(linear) - weights == 2 * 4  # two products in each of four blocks
    assert 0.95 < agreement(backbone, open_file(target, 'onnx'), batches) < 1


def test_without_images_nothing_is_quantised(onnx_packages: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='there are no calibration images'):
        quantize(tmp_path / 'a.onnx', tmp_path / 'b.onnx', [])


def test_images_are_read_as_the_model_takes_them(tmp_path: Path) -> None:
    cv2 = pytest.importorskip('cv2')
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((8, 6, 3), (35, 28, 14), np.uint8))  # blue, green, red
    (image,) = calibration_images([tmp_path / 'a.png'], 4, 5, METADATA)
    assert image.shape == (1, 3, 4, 5) and image.dtype == np.float32
    assert np.array_equal(image[0, :, 0, 0], [2, 2, 1])
    (plain,) = calibration_images([tmp_path / 'a.png'], 4, 5, dict(channel_order='BGR'))
    assert np.array_equal(plain[0, :, 3, 4], [35, 28, 14])


@pytest.mark.parametrize('content', [b'', b'no image'])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip('cv2')
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(ValueError, match=r'a\.txt is no image that OpenCV reads: leave it out'):
        list(calibration_images([tmp_path / 'a.txt'], 4, 4, METADATA))


@pytest.mark.parametrize('share', [0.5, float('nan')])
def test_a_file_that_does_not_agree_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r'agrees with the model on .* of 3 calibration images, less than'):
        check_agreement(share, 3)
    check_agreement(0.9, 3)


def test_agreement_of_a_segmentor_counts_pixels() -> None:
    model = nn.Module()
    model.decode_head, model.forward = nn.Identity(), lambda images: images
    images = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    assert agreement(model, lambda batch: [batch.flip(1)], [images.numpy()]) == 0
    assert (
        agreement(model, lambda batch: [torch.ones_like(batch) * torch.tensor([[[[1.0]], [[0.0]]]])], [images.numpy()])
        == 0.5
    )
