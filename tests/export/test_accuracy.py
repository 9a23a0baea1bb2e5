"""The accuracy in int8, on a few generated images."""

from pathlib import Path

import pytest
import torch

from mmtwins.engine.config import load_config
from mmtwins.export import accuracy

TOY = 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128'


@pytest.mark.slow
def test_accuracy_of_pytorch_onnx_and_int8(
    toy_data: Path, toy_checkpoints: dict[str, Path], onnx_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('mmseg')
    monkeypatch.setattr(accuracy, 'CALIBRATION', 2)
    monkeypatch.setattr(accuracy, 'EXPORTER', 'onnx-legacy')
    steps: list[int] = []
    threads = torch.get_num_threads()
    cfg = load_config(TOY, dict(data_root=str(toy_data / 'ade')))
    found = accuracy.measure_accuracy(cfg, str(toy_checkpoints['mmseg']), 128, 128, lambda: steps.append(1))
    torch.set_num_threads(threads)
    assert list(found) == ['eager', 'onnx', 'int8'] and len(steps) == 3
    assert all(one['images'] == 4 and one['seconds'] > 0 and 0 <= one['mIoU'] <= 100 for one in found.values())
    assert found['onnx']['mIoU'] == pytest.approx(found['eager']['mIoU'], abs=0.05)
    assert found['int8']['megabytes'] < found['onnx']['megabytes'] / 2
    assert found['eager']['mIoU'] == pytest.approx(mean_iou(cfg, str(toy_checkpoints['mmseg'])), abs=0.01)


def mean_iou(cfg, checkpoint: str) -> float:
    """As `mmtwins test` computes it."""
    from mmtwins.export.exportable import build_exportable

    model = build_exportable(cfg, checkpoint)
    classes = cfg.model.decode_head.num_classes
    counts = torch.zeros(classes, classes)
    with torch.no_grad():
        for images, labels in accuracy._samples(cfg, 'val'):
            predicted = model(images)[0].argmax(0)
            known = labels != 255
            counts += torch.bincount(labels[known] * classes + predicted[known], minlength=classes**2).view(
                classes, classes
            )
    both = counts.diag()
    union = counts.sum(0) + counts.sum(1) - both
    return 100 * float((both / union)[union > 0].mean())
