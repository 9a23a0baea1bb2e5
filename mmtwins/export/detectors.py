"""Whole detectors as ONNX, through the rewriters of mmdeploy 1.3.1, with what they need to run on today's PyTorch."""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..engine.console import only_errors
from .exportable import MMDEPLOY
from .runtimes import OLDER_EXPORTER, Runner, note_metadata

OPSET = 16  # the first whose RoiAlign has MMDetection's half-pixel shift
# Of mmdeploy: what its own configs for detectors have.
POST_PROCESSING = dict(
    score_threshold=0.05,
    confidence_threshold=0.005,
    iou_threshold=0.5,
    max_output_boxes_per_class=200,
    pre_top_k=5000,
    keep_top_k=100,
    background_label_id=-1,
    export_postprocess_mask=False,
)
SCORE_TOLERANCE, BOX_TOLERANCE = 1e-3, 0.1  # of a score; of a coordinate, in pixels
MASK_TOLERANCE = 0.01  # of the pixels of all masks


def write_detector(
    model: nn.Module,
    path: str | Path,
    height: int,
    width: int,
    dynamic: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a detector as ONNX, from one normalised image to objects.

    The input is called ``images``, (1, 3, height, width). The outputs are ``dets``,
    (1, N, 5) with x1, y1, x2, y2 in pixels and the score, ``labels``, (1, N), and with masks ``masks``, (1, N, 28, 28):
    probabilities inside the box. Objects come in the order of their scores; those below the threshold have the score 0.

    Args:
        model: Of MMDetection, in eval mode.
        path: File to write.
        height: Of the image to trace, in pixels.
        width: Of the image to trace, in pixels.
        dynamic: Whether the file takes any height and width.
        metadata: Written into the file, see :func:`mmtwins.export.describe`.

    Raises:
        ImportError: mmdeploy is not installed.
        ValueError: mmdeploy does not follow the model.
    """
    if find_spec('mmdeploy') is None:
        raise ImportError(f'a whole detector needs mmdeploy: {MMDEPLOY}. Or export backbone and neck with --neck')
    copied: Any = copy.deepcopy(model).cpu().eval()
    with_mask = hasattr(copied, 'roi_head') and copied.roi_head.with_mask
    if with_mask:
        _one_mask_per_class(copied.roi_head.mask_head)
    names = ['dets', 'labels', *(['masks'] if with_mask else [])]
    sizes = {'images': {2: 'height', 3: 'width'}} if dynamic else {}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        with _rewritten(copied, names, sizes) as predict, _quiet(), torch.no_grad():
            torch.onnx.export(
                predict,
                (torch.randn(1, 3, height, width),),
                str(path),
                **OLDER_EXPORTER,
                autograd_inlining=False,  # mmdeploy's functions have their own symbols
                opset_version=OPSET,
                input_names=['images'],
                output_names=names,
                dynamic_axes={**sizes, **{name: {1: 'objects'} for name in names}},
            )
    except Exception as error:  # rewriters fail in all kinds of ways on models that they do not know
        raise ValueError(f'mmdeploy does not follow {type(model).__name__}: {type(error).__name__}: {error}') from error
    note_metadata(path, metadata or {})


class _Predict(nn.Module):
    """A patched detector as a function of its image; mmdeploy asks for the size in a sample."""

    def __init__(self, patched: nn.Module) -> None:
        super().__init__()
        self.patched = patched

    def forward(self, images: Tensor) -> Any:
        return self.patched(images, data_samples=[_sample(*images.shape[2:])], mode='predict')


def _sample(height: int, width: int) -> Any:
    from mmdet.structures import DetDataSample

    size = (int(height), int(width))
    shapes = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))
    return DetDataSample(metainfo=shapes)


@contextmanager
def _rewritten(model: nn.Module, names: Sequence[str], sizes: Mapping[str, Any]) -> Iterator[nn.Module]:
    """The model as mmdeploy rewrites it; only inside, because mmdeploy replaces functions of the libraries."""
    import mmdeploy.codebase.mmdet.models
    import mmdeploy.codebase.mmdet.structures
    import mmdeploy.mmcv.ops  # noqa: F401, which registers the rewriters
    from mmdeploy.core import RewriterContext, patch_model
    from mmdeploy.utils import IR

    _register_for_new_torch()
    ir = dict(type='onnx', input_names=['images'], output_names=list(names), opset_version=OPSET, input_shape=None)
    ir['dynamic_axes'] = dict(sizes) or None
    task = dict(type='mmdet', task='ObjectDetection', model_type='end2end', post_processing=_thresholds(model))
    deploy = Config(dict(codebase_config=task, backend_config=dict(type='onnxruntime'), onnx_config=ir, ir_config=ir))
    with DefaultScope.overwrite_default_scope('mmdet'):
        patched = patch_model(model, cfg=deploy, backend='onnxruntime', ir=IR.ONNX)
        with RewriterContext(cfg=deploy, backend='onnxruntime', ir=IR.ONNX, opset=OPSET, deploy_cfg=deploy):
            yield _Predict(patched)


@cache
def _register_for_new_torch() -> None:
    """Replace two rewriters of mmdeploy 1.3.1, for ONNX Runtime alone, by its own means of doing so."""
    from mmdeploy.core import FUNCTION_REWRITER, SYMBOLIC_REWRITER

    @FUNCTION_REWRITER.register_rewriter('torch.nn.functional.scaled_dot_product_attention', backend='onnxruntime')
    def attend(*args: Any, **kwargs: Any) -> Tensor:
        """PyTorch exports it by now; mmdeploy's own takes no boolean mask."""
        return FUNCTION_REWRITER.get_context().origin_func(*args, **kwargs)

    @SYMBOLIC_REWRITER.register_symbolic('mmcv.ops.roi_align.__self__', backend='onnxruntime')
    def roi_align(
        g: Any, features: Any, rois: Any, size: Any, scale: float, sampling_ratio: int, mode: str, aligned: bool
    ) -> Any:
        """mmdeploy's own imports what PyTorch no longer has."""

        def constant(*values: int) -> Any:
            return g.op('Constant', value_t=torch.tensor(values))

        def columns(first: int, last: int) -> Any:
            return g.op('Slice', rois, constant(first), constant(last), constant(1))

        index = g.op('Cast', g.op('Squeeze', columns(0, 1), constant(1)), to_i=7)  # int64
        return g.op(
            'RoiAlign',
            features,
            columns(1, 5),
            index,
            output_height_i=size[0],
            output_width_i=size[1],
            spatial_scale_f=scale,
            sampling_ratio_i=sampling_ratio,
            mode_s=mode,
            coordinate_transformation_mode_s='half_pixel' if aligned else 'output_half_pixel',
        )


def _one_mask_per_class(head: Any) -> None:
    """Repeat the mask of a class-agnostic head for each class: mmdeploy exports no other heads."""
    if not head.class_agnostic:
        return
    one = head.conv_logits
    many = nn.Conv2d(one.in_channels, head.num_classes, one.kernel_size, one.stride, one.padding)
    repeated = {name: torch.cat([value] * head.num_classes) for name, value in one.state_dict().items()}
    many.load_state_dict(repeated)
    head.conv_logits, head.class_agnostic = many.eval(), False


def _thresholds(model: Any) -> dict[str, Any]:
    """The post-processing of mmdeploy with the thresholds of the model's own."""
    test_cfg = model.test_cfg.get('rcnn', model.test_cfg)
    return {
        **POST_PROCESSING,
        'score_threshold': test_cfg.get('score_thr', POST_PROCESSING['score_threshold']),
        'iou_threshold': test_cfg.get('nms', {}).get('iou_threshold', POST_PROCESSING['iou_threshold']),
        'keep_top_k': test_cfg.get('max_per_img', POST_PROCESSING['keep_top_k']),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what mmdeploy and the tracer say about each function."""
    with only_errors(logging.getLogger('mmdeploy'), logging.root), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def compare_detector(model: nn.Module, run: Runner, images: Tensor) -> int:
    """Compare the objects that a file finds with those of its model.

    Args:
        model: In PyTorch, on the CPU.
        run: Runs the file.
        images: One normalised image, (1, 3, H, W).

    Returns:
        Number of objects, which are the same ones.

    Raises:
        ValueError: The file finds other objects: numbers, labels, scores, boxes or masks differ.
    """
    detector: Any = model
    height, width = images.shape[2:]
    with torch.no_grad(), DefaultScope.overwrite_default_scope('mmdet'):
        wanted = detector.predict(images, [_sample(height, width)], rescale=False)[0].pred_instances
    dets, labels, *masks = (output[0] for output in run(images))
    is_found = dets[:, 4] > 0
    what = f'in an image of {height} x {width} pixels'
    if int(is_found.sum()) != len(wanted):
        raise ValueError(f'the file finds {int(is_found.sum())} objects {what}, the model {len(wanted)}')
    if not len(wanted):
        return 0
    order = _matches(torch.cat([dets[is_found], labels[is_found, None]], 1), wanted)
    dets, labels, masks = dets[is_found][order], labels[is_found][order], [mask[is_found][order] for mask in masks]
    differences = dict(
        scores=float((dets[:, 4] - wanted.scores).abs().max()) / SCORE_TOLERANCE,
        boxes=float((dets[:, :4] - wanted.bboxes).abs().max()) / BOX_TOLERANCE,
        labels=float((labels != wanted.labels).sum()),
        masks=_mask_difference(detector, masks[0], dets, wanted.masks) / MASK_TOLERANCE if masks else 0.0,
    )
    wrong = [name for name, difference in differences.items() if not difference <= 1]
    if wrong:
        raise ValueError(f'the file finds other objects than the model {what}: {", ".join(wrong)} differ')
    return len(wanted)


def _matches(found: Tensor, wanted: Any) -> Tensor:
    """For each wanted object the index of the nearest found one, (N,): objects of equal score may change places."""
    expected = torch.cat([wanted.bboxes, wanted.scores[:, None], wanted.labels[:, None]], 1)
    return torch.cdist(expected.double(), found.double()).argmin(1)


def _mask_difference(detector: Any, masks: Tensor, dets: Tensor, wanted: Tensor) -> float:
    """The share of the pixels of all masks that differ, once those of the file are laid into the image."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted, _ = _do_paste_mask(masks[:, None], dets[:, :4], *wanted.shape[1:], skip_empty=False)
    is_mask = pasted >= detector.test_cfg.rcnn.mask_thr_binary
    return float((is_mask != wanted).sum() / wanted.sum().clamp(min=1))
