"""One step of a task as a function: a forward pass, in training a backward pass too, on random images."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..engine.config import load_config
from ..engine.model import build_model
from ..models.backbone import TwinsBackbone
from .peers import PEERS, build_backbone, compile_alone, published_arch
from .precision import autocast_to
from .task import Task


def make_step(task: Task, implementation: str, weights: Mapping[str, Tensor] | None = None) -> Callable[[], None]:
    """Build a model and what runs one step of a task on random images.

    Args:
        task: What to run.
        implementation: One of :data:`mmtwins.benchmark.peers.OURS` or :data:`mmtwins.benchmark.peers.PEERS`.
        weights: Native state dict to load into the backbone.

    Returns:
        The step.

    Raises:
        ImportError: The library is not installed.
        ValueError: The config has another backbone, or one that the implementation does not have.
    """
    if task.config is None:
        model, samples = build_backbone(implementation, task.arch, weights), None
    else:
        model, samples = _build_model(task, implementation, weights)
    is_training = task.work == 'training'
    model.to(task.device).train(is_training)
    images = torch.randn(task.batch, 3, task.height, task.width, device=task.device)
    if implementation == 'mmtwins channels-last':
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.to(memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad(set_to_none=True)  # of the last step, so that a forward pass holds no gradients
        with torch.set_grad_enabled(is_training):
            with autocast_to(task.precision, task.device):
                loss = _run(model, images, samples)
            if is_training:
                assert loss is not None
                loss.backward()

    return step


def _run(model: Any, images: Tensor, samples: list | None) -> Tensor | None:
    """One forward pass of a backbone (without samples) or a whole model; the loss in training."""
    if samples is None:
        maps = model(images)
        return sum(m.float().sum() for m in maps) if model.training else None
    if model.training:
        return model.parse_losses(model(images, samples, mode='loss'))[0]
    model(images, samples, mode='predict')
    return None


def _build_model(task: Task, implementation: str, weights: Mapping[str, Tensor] | None) -> tuple[nn.Module, list]:
    """The model of a config with one implementation's backbone, and samples with random annotations."""
    assert task.config is not None
    cfg = load_config(task.config)
    scope = cfg.get('default_scope')
    init_default_scope(scope)
    model: Any = build_model(cfg)
    if not isinstance(model.backbone, TwinsBackbone):
        raise ValueError(f'the backbone of {task.config} is {type(model.backbone).__name__}, not one of Twins')
    if implementation in PEERS:
        arch = published_arch(task.config, cfg.model.backbone, implementation)
        model.backbone = build_backbone(implementation, arch, weights)
    else:
        model.backbone.with_cp = implementation == 'mmtwins with_cp'
        if implementation == 'mmtwins compiled':
            model.backbone = compile_alone(model.backbone)
    make_sample = _make_detection_sample if scope == 'mmdet' else _make_segmentation_sample
    return model, [make_sample(model, task).to(task.device) for _ in range(task.batch)]


def _metainfo(task: Task) -> dict[str, Any]:
    size = (task.height, task.width)
    return dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))


def _make_segmentation_sample(model: Any, task: Task) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_metainfo(task))
    labels = torch.randint(model.decode_head.num_classes, (1, task.height, task.width))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _make_detection_sample(model: Any, task: Task) -> Any:
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    number, size = 8, torch.tensor([task.width, task.height])
    corners = torch.rand(number, 2, 2).sort(dim=1).values * size
    instances = InstanceData(bboxes=corners.flatten(1), labels=torch.zeros(number, dtype=torch.long))
    masks = np.zeros((number, task.height, task.width), dtype=np.uint8)
    for mask, ((left, top), (right, bottom)) in zip(masks, corners.long().tolist()):
        mask[top : bottom + 1, left : right + 1] = 1
    instances.masks = BitmapMasks(masks, task.height, task.width)
    sample = DetDataSample(metainfo=_metainfo(task))
    sample.gt_instances = instances
    return sample
