"""Try a config: build its model, train two iterations on generated images, and predict."""

import copy
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from ..engine.config import load_config
from ..engine.model import build_model
from ..engine.start import start_from_scratch
from .refusing import parts_of
from .stand_ins import stand_ins

SIDES = (64, 128, 320)  # of the images to train on, in pixels; the first that a model takes
REGIONS = 64  # that RoI heads train on, per image
PERSON = (256, 128)  # height and width of the images for re-identification, in pixels
QUERIES = 50  # of detectors such as DETR, and predictions per image
ITERATIONS = 2
SCALING = dict(mean=[0, 0, 0], std=[255, 255, 255])
PREPROCESSORS: dict[str, dict[str, Any]] = {  # of models that have none of their own
    'mmseg': dict(type='SegDataPreProcessor', **SCALING),
    'mmdet': dict(type='DetDataPreprocessor', **SCALING, pad_size_divisor=32),
}


class Trial(NamedTuple):
    """Results of a trial.

    Attributes:
        losses: Loss of each iteration.
        parameters: Number of the model's parameters.
        predictions: Number of images with a prediction.
    """

    losses: list[float]
    parameters: int
    predictions: int


def try_model(cfg: Config, path: tuple[str, ...], side: int = SIDES[0], iterations: int = ITERATIONS) -> Trial:
    """Train a model for some iterations from random weights, and predict.

    Args:
        cfg: Config of a segmentor or a detector, or of a wrapper of one. It is not changed.
        path: Keys of the segmentor or detector, from the top of the config.
        side: Side of the images, in pixels.
        iterations: Number of iterations.

    Returns:
        The results.

    Raises:
        ValueError: A loss or a gradient of the backbone is not finite, or all gradients of the backbone are 0.
        Exception: Whatever the model raises.
    """
    cfg = copy.deepcopy(cfg)
    cfg.load_from = None
    stand_alone(cfg)
    _shrink(cfg, side)
    scope = cfg.get('default_scope')
    torch.manual_seed(0)
    repaired = stand_ins() if scope == 'mmdet' else nullcontext()
    with DefaultScope.overwrite_default_scope(scope), repaired:
        model = revert_sync_batchnorm(build_model(cfg))
        model.init_weights()
        losses = [*_train(cfg, model, path, side, iterations)]
        model.eval()
        with torch.no_grad():
            predictions = len(model.test_step(make_inputs(cfg, model, (side, side), training=False)))
    if not predictions:
        raise ValueError('no image has a prediction')
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Trial(losses, parameters, predictions)


def stand_alone(cfg: Config) -> None:
    """Let a model be built without downloads, other processes and torchvision, in place.

    Args:
        cfg: Config of the model.
    """
    start_from_scratch(cfg)
    if cfg.model.get('teacher_ckpt'):  # a second detector to learn from
        cfg.model.teacher_ckpt = None
    if isinstance(cfg.model.get('teacher_config'), str):  # named as in a checkout of the library
        cfg.model.teacher_config = load_config(f'mmdet::{cfg.model.teacher_config.removeprefix("configs/")}')
    for part in parts_of(cfg.model):
        if part.get('type') == 'MMSyncBN':  # MMCV's own; it asks for the other processes when it is built
            part['type'] = 'SyncBN'
        if part.get('use_torchvision'):  # of RoIAlign; MMCV's own computes the same
            part['use_torchvision'] = False


def _shrink(cfg: Config, side: int) -> None:
    """Train on small images, few regions and few queries."""
    processor = cfg.model.get('data_preprocessor') or {}
    if processor.get('size'):
        processor['size'] = (side, side)
    processor.pop('batch_augments', None)
    for part in parts_of(cfg.model):
        if part.get('num') and part.get('type') == 'RandomSampler':
            part['num'] = min(part['num'], REGIONS)
        if (
            part.get('clip_border') is False
        ):  # boxes from random weights leave the image, and masks cannot be pasted there
            part['clip_border'] = True
        for key in ('num_queries', 'num_proposals', 'max_per_img'):
            if isinstance(part.get(key), int):
                part[key] = min(part[key], QUERIES)


def _train(cfg: Config, model: BaseModel, path: tuple[str, ...], side: int, iterations: int) -> Iterator[float]:
    trained, trained_cfg = model, cfg
    if not cfg.get('optim_wrapper'):  # trackers whose parts are trained by themselves
        trained, trained_cfg = model.detector, Config({**cfg, 'model': cfg.model.detector})
        trained.data_preprocessor = build_model(cfg, PREPROCESSORS['mmdet'])
    settings = dict(cfg.get('optim_wrapper') or dict(optimizer=dict(type='AdamW', lr=1e-4)))
    settings.update(type='OptimWrapper')  # mixed precision needs a GPU
    for key in ('loss_scale', 'dtype', 'use_fsdp'):
        settings.pop(key, None)
    wrapper = build_optim_wrapper(trained, settings)
    backbone: Any = trained
    for key in path[1:] if trained is model else path[2:]:
        backbone = getattr(backbone, 'student' if hasattr(backbone, 'student') else key)
    backbone = backbone.backbone
    trained.train()
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', 0)  # as a Runner does; TOOD and BoxInst read them
    for i in range(iterations):
        hub.update_info('iter', i)
        data = trained.data_preprocessor(make_inputs(trained_cfg, trained, (side, side), training=True), True)
        if 'inputs' in data and isinstance(data['inputs'], dict) and hasattr(trained, 'student'):
            losses = trained.loss(data['inputs'], data['data_samples'])
        else:
            losses = trained(**data, mode='loss')
        loss, _ = trained.parse_losses(losses)
        wrapper.backward(loss)
        _check_gradients(backbone)
        wrapper.step()
        wrapper.zero_grad()
        if not math.isfinite(loss.item()):
            raise ValueError(f'the loss is {loss.item()}')
        yield loss.item()


def _check_gradients(backbone: nn.Module) -> None:
    gradients = [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]
    total = sum(float(gradient.abs().sum()) for gradient in gradients)
    if not math.isfinite(total) or not total:
        raise ValueError(f'the gradients of the backbone sum up to {total}')


def make_inputs(
    cfg: Config, model: BaseModel, size: tuple[int, int], training: bool, images: int = 2
) -> dict[str, Any]:
    """A batch as a data loader gives it.

    Args:
        cfg: Config of the model.
        model: The model.
        size: Height and width of the images, in pixels.
        training: Whether it is for training; otherwise for a prediction.
        images: Number of images; a tracker gets one video.

    Returns:
        ``inputs`` and ``data_samples``, of random images.
    """
    if cfg.default_scope == 'mmseg':
        return _segmentation_inputs(size, images)
    if 'head' in cfg.model:
        return _person_inputs()
    with_mask = "'with_mask': True" in str(cfg.get('train_dataloader'))
    return _detection_inputs(model, size, images, training, with_mask)


def _segmentation_inputs(size: tuple[int, int], count: int) -> dict[str, Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, samples = [], []
    labels = torch.zeros(1, *size, dtype=torch.int64)
    labels[..., size[1] // 2 :] = 1
    for _ in range(count):
        shape = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
        images.append(torch.randint(256, (3, *size), dtype=torch.uint8))
        samples.append(SegDataSample(metainfo=dict(shape, flip=False), gt_sem_seg=PixelData(data=labels.clone())))
    return dict(inputs=images, data_samples=samples)


def _person_inputs() -> dict[str, Any]:
    """Two crops of each of two persons, for re-identification."""
    from mmdet.structures import ReIDDataSample

    images = torch.randint(256, (1, 4, 3, *PERSON), dtype=torch.uint8)
    return dict(inputs=images, data_samples=[ReIDDataSample().set_gt_label(torch.tensor([0, 0, 1, 1]))])


def _detection_inputs(
    model: BaseModel, size: tuple[int, int], count: int, training: bool, with_mask: bool
) -> dict[str, Any]:
    from mmdet.models.mot import BaseMOTModel
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    shape = (3, *size)
    by_frame = getattr(model.data_preprocessor, 'use_det_processor', False) and training
    is_video = type(model.data_preprocessor).__name__ == 'TrackDataPreprocessor' or isinstance(model, BaseMOTModel)
    if is_video and not by_frame:
        frames = dict(num_frames=2, key_frames_inds=[0]) if training else dict(num_frames=1)
        data = demo_track_inputs(1, image_shapes=shape, num_items=[4], with_mask=with_mask, **frames)
        for sample in (one for video in data['data_samples'] for one in video.video_data_samples):
            sample.set_metainfo(dict(ori_video_length=1, video_length=1))
            sample.gt_instances.instances_ids = torch.arange(4)
        return data
    items = [3] * count
    data = demo_mm_inputs(
        count, shape, items, num_classes=2, with_mask=with_mask, with_semantic=True, use_box_type=True
    )
    for sample, proposals in zip(data['data_samples'], demo_mm_proposals([shape] * count, 50)):
        sample.gt_instances.labels.zero_()
        sample.gt_sem_seg.sem_seg.zero_()
        if not getattr(model, 'with_rpn', False):  # Fast R-CNN; others would use these in place of their own
            sample.proposals = proposals
        sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32), pad_shape=size))
    if training and hasattr(model, 'student'):
        branches = ('sup', 'unsup_teacher', 'unsup_student')
        return {key: dict.fromkeys(branches, value) for key, value in data.items()}
    return data
