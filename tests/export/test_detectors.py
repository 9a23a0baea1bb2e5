"""Whole detectors: what is compared, and with mmdeploy the whole Mask R-CNN."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmtwins.engine.model import build_model
from mmtwins.export import checked, detectors
from mmtwins.export.checked import Plan, export
from mmtwins.export.detectors import _one_mask_per_class, compare_detector, write_detector


@pytest.fixture
def detector(detector_cfg: Config) -> nn.Module:
    """The toy detector with random weights that find something."""
    torch.manual_seed(0)
    model = build_model(detector_cfg).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for layer in (model.rpn_head.rpn_reg, model.roi_head.bbox_head.fc_reg):  # MMDetection alone drops empty boxes
        nn.init.normal_(layer.weight, std=0.01)
    return model


def as_file(model: nn.Module, images: Tensor) -> list[Tensor]:
    """What a file of the detector gives: objects of the model, and a last one below the threshold."""
    found = model.predict(images, [detectors._sample(*images.shape[2:])], rescale=False)[0].pred_instances
    dets = torch.cat([found.bboxes, found.scores[:, None]], 1)
    return [torch.cat([dets, torch.zeros(1, 5)])[None], torch.cat([found.labels, torch.tensor([0])])[None]]


def test_equal_objects_are_counted_and_others_named(detector: nn.Module) -> None:
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        dets, labels = as_file(detector, images)
    number = compare_detector(detector, lambda x: [dets, labels], images)
    assert number == dets.shape[1] - 1 > 3
    shuffled = torch.randperm(number + 1)
    assert compare_detector(detector, lambda x: [dets[:, shuffled], labels[:, shuffled]], images) == number
    with pytest.raises(
        ValueError, match=rf'finds {number - 1} objects in an image of 64 x 96 pixels, the model {number}'
    ):
        compare_detector(detector, lambda x: [dets[:, 1:], labels[:, 1:]], images)
    moved = dets + torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0])
    moved[:, -1] = 0
    with pytest.raises(ValueError, match=r'other objects than the model .*: boxes differ'):
        compare_detector(detector, lambda x: [moved, labels], images)
    with pytest.raises(ValueError, match='scores differ'):
        compare_detector(detector, lambda x: [dets * torch.tensor([1, 1, 1, 1, 0.9]), labels], images)
    with pytest.raises(ValueError, match='labels differ'):
        compare_detector(detector, lambda x: [dets, labels + 1], images)
    with pytest.raises(ValueError, match='masks differ'):
        compare_detector(detector, lambda x: [dets, labels, torch.zeros(1, number + 1, 28, 28)], images)


def test_a_class_agnostic_mask_is_repeated_for_each_class(detector: nn.Module) -> None:
    head, x = detector.roi_head.mask_head, torch.randn(2, 64, 14, 14)
    with torch.no_grad():
        before = head(x)
        _one_mask_per_class(head)
        after = head(x)
    assert before.shape[1] == 1 and after.shape[1] == head.num_classes == 6 and not head.class_agnostic
    assert torch.allclose(after, before.expand_as(after), atol=1e-6)


def test_without_mmdeploy_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'needs mmdeploy: `pip install --no-deps mmdeploy==1\.3\.1`.*with --neck'):
        write_detector(nn.Identity(), tmp_path / 'a.onnx', 64, 64)


def test_a_whole_mask_rcnn_finds_the_same_objects_at_all_sizes(
    detector: nn.Module, onnx_packages: None, tmp_path: Path
) -> None:
    pytest.importorskip('mmdeploy', reason='needs mmdeploy')
    import onnx

    plan = Plan('onnx', 64, 96, sizes=((1, 64, 96), (2, 100, 72)))
    lines = export(detector, tmp_path / 'a.onnx', plan, dict(mean='[1.0]'))
    numbers = [re.fullmatch(r'1 x 3 x (64 x 96|100 x 72): the same (\d+) objects', line)[2] for line in lines]
    assert len(numbers) == 2 and min(map(int, numbers)) > 3
    written = onnx.load(tmp_path / 'a.onnx')
    assert [value.name for value in written.graph.output] == ['dets', 'labels', 'masks']
    assert {node.domain for node in written.graph.node} == {''}  # standard operators only
    assert written.metadata_props[0].value == '[1.0]'


def test_a_file_compared_on_no_object_is_refused(
    detector: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, 'write_detector', lambda model, path, *args: path.parent.mkdir())
    monkeypatch.setattr(checked, 'open_file', lambda path, format_: None)
    monkeypatch.setattr(checked, 'compare_detector', lambda model, run, images: 0)
    plan = Plan('onnx', 64, 96, sizes=((1, 64, 96),))
    with pytest.raises(ValueError, match='no object in the images, so nothing was compared: give --calibrate IMAGES'):
        export(detector, tmp_path / 'a.onnx', plan, {})
    assert not list(tmp_path.iterdir())
