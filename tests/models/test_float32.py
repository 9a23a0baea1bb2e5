"""RoIs, proposals and anchors in a float16 step: those of float32. MMDetection's own classes are the control."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.testing import assert_close

pytest.importorskip('mmdet')

from cuda_autocast import CudaAutocast, needs_half
from mmdet.models import RetinaHead, RPNHead, SingleRoIExtractor
from mmdet.registry import MODELS, TASK_UTILS

from mmtwins import Float32RetinaHead, Float32RoIExtractor, Float32RPNHead
from mmtwins.export.runtimes import OLDER_EXPORTER
from mmtwins.models.float32 import HALF

ON_GPU = pytest.param(
    'cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')]
)
each_device = pytest.mark.parametrize('device', [pytest.param('cpu', marks=needs_half), ON_GPU])
STRIDES = [4, 8, 16, 32]
META = dict(img_shape=(800, 1333), pad_shape=(800, 1344))
NMS = ConfigDict(nms_pre=2000, max_per_img=1000, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)


def make_extractor(kind: str = 'Float32RoIExtractor', **settings: Any) -> nn.Module:
    layer = dict(type='RoIAlign', output_size=7, sampling_ratio=0)
    return MODELS.build(dict(type=kind, **dict(roi_layer=layer, out_channels=4, featmap_strides=STRIDES) | settings))


def make_maps(size: int = 512, dtype: torch.dtype = torch.float16, device: str = 'cpu') -> list[Tensor]:
    """Random maps of two images."""
    torch.manual_seed(0)
    return [torch.randn(2, 4, size // s, size // s, device=device).to(dtype) for s in STRIDES]


def make_rois(device: str = 'cpu') -> Tensor:
    """RoIs of 8 to 500 pixels in two images of 512 x 512."""
    torch.manual_seed(1)
    sizes = torch.rand(60, 2) * torch.logspace(1, 2.7, 60)[:, None]
    corners = torch.rand(60, 2) * (512 - sizes)
    return torch.cat([torch.arange(60)[:, None] % 2, corners, corners + sizes], 1).to(device)


def level_of(extractor: nn.Module, side: float, device: str) -> int:
    """The map, from 0, that a square RoI is taken from."""
    maps = [torch.full_like(x, i) for i, x in enumerate(make_maps(device=device))]
    roi = torch.tensor([[0.0, 30.0, 30.0, 30.0 + side, 30.0 + side]], device=device)
    with torch.autocast(device, torch.float16):
        return int(extractor.to(device)(maps, roi).max())


@each_device
@pytest.mark.parametrize(
    ('side', 'level', 'in_mmdet'),
    [(111, 0, 0), (223, 1, 1), (255, 2, 2), (257, 2, 3), (300, 2, 3), (447, 2, 3), (449, 3, 3)],
)
def test_a_roi_is_taken_from_the_map_of_its_size(side: int, level: int, in_mmdet: int, device: str) -> None:
    assert level_of(make_extractor(), side, device) == level
    # Fails here if MMDetection mends it: then ours is no longer needed.
    assert level_of(make_extractor('SingleRoIExtractor'), side, device) == in_mmdet


@each_device
def test_coordinates_and_the_alignment_keep_float32(device: str) -> None:
    roi = torch.tensor([[1.0, 1000.3, 700.7, 1100.6, 765.2]], device=device)
    # The first map holds the x coordinates of its pixels, in pixels of the map.
    maps = [torch.zeros(2, 4, 1024 // s, 1344 // s, device=device).half() for s in STRIDES]
    maps[0] += torch.arange(336, device=device)
    seen = {}
    for kind in ('Float32RoIExtractor', 'SingleRoIExtractor'):
        extractor = make_extractor(kind).to(device)
        extractor.roi_layers[0].register_forward_pre_hook(lambda _, args, kind=kind: seen.update({kind: args[1]}))
        with torch.autocast(device, torch.float16):
            out = extractor(maps, roi)
        assert out.dtype == torch.float16
        middle = float(out[0, 0, 0, 3]) * 4 + 2
        exact = kind == 'Float32RoIExtractor'
        assert middle == pytest.approx((1000.3 + 1100.6) / 2, abs=0.5 if exact else 2)  # half of the output's spacing
    assert_close(seen['Float32RoIExtractor'], roi, rtol=0, atol=0)
    moved = (seen['SingleRoIExtractor'] - roi).abs().max()
    assert 0.3 < moved <= 0.5


@each_device
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('roi_scale_factor', [None, 1.3])
def test_features_are_those_of_float32_rounded_once(
    dtype: torch.dtype, roi_scale_factor: float | None, device: str
) -> None:
    maps, rois = make_maps(dtype=dtype, device=device), make_rois(device)
    expected = make_extractor('SingleRoIExtractor').to(device)([x.float() for x in maps], rois, roi_scale_factor)
    out = make_extractor().to(device)(maps, rois, roi_scale_factor)
    assert out.dtype == dtype
    assert_close(out, expected.to(dtype), rtol=0, atol=0)
    # Of maps that were rounded themselves, within that rounding.
    exact = make_extractor().to(device)(make_maps(dtype=torch.float32, device=device), rois, roi_scale_factor)
    assert (out - exact).abs().max() < 2 * torch.finfo(dtype).eps * exact.abs().max()


@each_device
def test_gradients_are_those_of_float32_rounded(device: str) -> None:
    grads = []
    for dtype in (torch.float16, torch.float32):
        maps = [x.to(dtype).requires_grad_() for x in make_maps(device=device)]
        with torch.autocast(device, torch.float16):
            out = make_extractor().to(device)(maps, make_rois(device))
        weights = torch.linspace(-1, 1, out.numel(), device=device).view(out.shape).half()
        grads.append(torch.autograd.grad((out.float() * weights.float()).sum(), maps))
    for half, full in zip(*grads, strict=True):
        assert half.dtype == torch.float16
        assert (half - full).abs().max() <= torch.finfo(torch.float16).eps * full.abs().max()


@pytest.mark.parametrize('rois', [torch.zeros(0, 5), torch.tensor([[0.0, 0, 0, 8, 8]])], ids=['none', 'one'])
def test_maps_without_rois_get_a_gradient_of_zero(rois: Tensor) -> None:
    # Sums of such maps times zero are NaN in float16, where the sums overflow.
    maps = [(x.abs() + 60000).requires_grad_() for x in make_maps()]
    out = make_extractor()(maps, rois)
    assert out.shape == (len(rois), 4, 7, 7)
    assert out.isfinite().all()
    grads = torch.autograd.grad(out.sum(), maps)
    assert [bool(grad.any()) for grad in grads] == [len(rois) == 1, False, False, False]
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_wider_types_take_the_way_of_mmdet(dtype: torch.dtype) -> None:
    maps, rois = make_maps(dtype=dtype), make_rois()
    ours, theirs = make_extractor(), make_extractor('SingleRoIExtractor')
    for feats, chosen in ((maps, rois), (maps, rois[:0]), (maps[:1], rois)):
        extracted = ours(feats, chosen)
        assert extracted.dtype == dtype
        assert_close(extracted, theirs(feats, chosen), rtol=0, atol=0)


def test_traced_and_exported_graphs_are_those_of_mmdet() -> None:
    onnx = pytest.importorskip('onnx')
    maps, traced, exported = make_maps(dtype=torch.float32), [], []
    for kind in ('Float32RoIExtractor', 'SingleRoIExtractor'):
        extractor, file = make_extractor(kind), io.BytesIO()
        graph = torch.jit.trace(extractor, (maps, make_rois()), check_trace=False).inlined_graph
        traced.append([node.kind() for node in graph.nodes()])
        fallback = torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH  # RoIAlign is mmcv's own operator
        torch.onnx.export(extractor, (maps, make_rois()), file, operator_export_type=fallback, **OLDER_EXPORTER)
        exported.append([node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node])
    assert traced[0] == traced[1]
    assert exported[0] == exported[1]


def test_maps_of_several_types_are_all_made_float32() -> None:
    maps = make_maps()
    maps[0] = maps[0].float()
    out = make_extractor()(maps, make_rois())
    assert_close(out, make_extractor()([x.float() for x in maps], make_rois()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ('ours', 'theirs'),
    [(Float32RoIExtractor, SingleRoIExtractor), (Float32RPNHead, RPNHead), (Float32RetinaHead, RetinaHead)],
)
def test_a_class_is_mmdets_too_and_its_objects_can_be_copied(ours: type, theirs: type) -> None:
    made = make_extractor() if ours is Float32RoIExtractor else make_head(ours.__name__)
    settings = dict(roi_layer=dict(type='RoIAlign', output_size=7), out_channels=4, featmap_strides=STRIDES)
    for one in (made, copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(one, ours)
        assert isinstance(one, theirs)
        assert type(one) is type(made)
        assert_close(dict(one.state_dict()), dict(made.state_dict()))
    if ours is Float32RoIExtractor:

        class Own(Float32RoIExtractor):
            def forward(self, *args: Any) -> Tensor:
                return 2 * super().forward(*args)

        out = Own(**settings)(make_maps(), make_rois())
        assert_close(out, 2 * made(make_maps(), make_rois()))


def make_head(kind: str) -> nn.Module:
    """An RPN or RetinaNet head for maps with 8 channels, whose outputs are the channels themselves."""
    coder = dict(type='DeltaXYWHBBoxCoder')
    anchors = dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=STRIDES)
    classes = dict(num_classes=2) if 'Retina' in kind else {}
    settings = dict(in_channels=8, feat_channels=8, anchor_generator=anchors, bbox_coder=coder, **classes)
    head = MODELS.build(dict(type=kind, **settings, test_cfg=NMS))
    torch.manual_seed(0)
    head.init_weights()
    return head


def predict(head: nn.Module, device: str, change: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Any, list[Tensor]]:
    """Boxes of a float16 step on maps of an image of 800 x 1333, and the head's outputs."""
    torch.manual_seed(3)
    maps = [torch.randn(1, 8, -(-800 // s), -(-1344 // s), device=device).half() for s in STRIDES]
    with torch.autocast(device, torch.float16), CudaAutocast():
        outputs = head(maps)
        outputs = tuple([change(x) for x in level] for level in outputs)
        (result,) = head.predict_by_feat(*outputs, batch_img_metas=[META], cfg=NMS)
    return result, [x for level in outputs for x in level]


@each_device
@pytest.mark.parametrize('kind', ['RPNHead', 'RetinaHead'])
def test_boxes_are_those_of_the_same_outputs_in_float32(kind: str, device: str) -> None:
    ours, theirs = make_head(f'Float32{kind}').to(device), make_head(kind).to(device)
    for head in (ours, theirs):
        for name, parameter in head.named_parameters():
            if name.endswith('weight'):
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator(device).manual_seed(len(name)))
    result, outputs = predict(ours, device)
    assert {x.dtype for x in outputs} == {torch.float32}
    expected, _ = predict(theirs, device, change=Tensor.float)
    for key in ('bboxes', 'scores', 'labels'):
        assert_close(result[key], expected[key], rtol=0, atol=0)
    control, outputs = predict(theirs, device)
    assert {x.dtype for x in outputs} == {torch.float16}
    distance = torch.cdist(expected.bboxes.double(), control.bboxes.double(), p=float('inf')).min(1).values
    assert distance.max() > 0.5  # pixels


@pytest.mark.parametrize('kind', ['RPNHead', 'RetinaHead'])
def test_heads_leave_outputs_in_float32_as_they_are(kind: str) -> None:
    ours, theirs = make_head(f'Float32{kind}'), make_head(kind)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    maps = [torch.randn(2, 8, 64 // s, 64 // s) for s in STRIDES]
    assert_close(ours(maps), theirs(maps), rtol=0, atol=0)


@each_device
def test_the_loss_of_confident_anchors_is_that_of_float32(device: str) -> None:
    # On a GPU, mmcv's focal loss of float16 logits above 8.3 is NaN.
    from mmdet.structures import DetDataSample

    head = make_head('Float32RetinaHead').to(device)
    nn.init.constant_(head.retina_cls.bias, 9.0)
    head.assigner = TASK_UTILS.build(dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0))
    head.sampler = TASK_UTILS.build(dict(type='PseudoSampler'))
    head.train_cfg = ConfigDict(allowed_border=-1, pos_weight=-1)
    objects = InstanceData(bboxes=torch.tensor([[8.0, 8, 60, 60]]), labels=torch.tensor([1]))
    sample = DetDataSample(metainfo=META, gt_instances=objects).to(device)
    torch.manual_seed(3)
    maps, losses = [torch.randn(1, 8, 64 // s, 64 // s, device=device) for s in STRIDES], []
    for enabled in (True, False):
        with torch.autocast(device, torch.float16, enabled=enabled), CudaAutocast():
            losses.append({key: sum(values) for key, values in head.loss(maps, [sample]).items()})
    assert set(losses[0]) == {'loss_cls', 'loss_bbox'}
    assert all(loss.isfinite() for loss in losses[0].values())
    assert_close(*losses, rtol=1e-3, atol=1e-4)
