"""A short training in mixed precision: whether the loss falls, and stays finite."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from statistics import fmean
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope

from ..engine.model import build_model

Draw = Callable[[int], tuple[np.ndarray, np.ndarray]]
DTYPES = {'fp16': 'float16', 'bf16': 'bfloat16'}
LARGEST_SHARE = 0.9  # of the first tenth's loss that the last tenth's may be


def train_in_amp(cfg: Config, draw: Draw, precision: str, device: str, iterations: int, batch: int) -> dict[str, Any]:
    """Train the segmentor of a config with MMEngine's ``AmpOptimWrapper``.

    Args:
        cfg: A config of MMSegmentation; its optimizer and schedule are used.
        draw: Gives the image (H, W, 3) uint8 BGR and the labels (H, W) of a number; 255 is ignored.
        precision: ``'fp16'``, with a dynamic loss scale, or ``'bf16'``.
        device: Such as ``'cuda:0'``. On a CPU, which ``AmpOptimWrapper`` refuses, autocast to bfloat16 takes its place.
        iterations: Steps.
        batch: Images of a step.

    Returns:
        ``losses`` of all iterations, ``loss_scale`` at the end, ``wrapper``, ``peak_bytes`` on a GPU, and ``failures``: a
        sentence for what is wrong.
    """
    from mmseg.structures import SegDataSample

    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model: Any = build_model(cfg)
    model.to(device).train()
    on_gpu = device.startswith('cuda')
    options = dict(cfg.optim_wrapper)
    if on_gpu:
        options.update(
            type='AmpOptimWrapper', dtype=DTYPES[precision], loss_scale='dynamic' if precision == 'fp16' else 1.0
        )
    wrapper = build_optim_wrapper(model, options)
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper)) for s in cfg.param_scheduler or ()]
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    losses = []
    for i in range(iterations):
        pairs = [draw(i * batch + j) for j in range(batch)]
        samples = [_sample(SegDataSample, labels) for _, labels in pairs]
        inputs = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1) for image, _ in pairs]
        with nullcontext() if on_gpu else torch.autocast('cpu', torch.bfloat16):
            losses.append(model.train_step(dict(inputs=inputs, data_samples=samples), wrapper)['loss'].item())
        for scheduler in schedulers:
            scheduler.step()
    return dict(
        losses=losses,
        wrapper=type(wrapper).__name__,
        loss_scale=wrapper.loss_scaler.get_scale() if on_gpu else None,
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_gpu else None,
        failures=judge(losses, all(bool(p.isfinite().all()) for p in model.parameters())),
    )


def _sample(kind: type, labels: np.ndarray) -> Any:
    from mmengine.structures import PixelData

    metainfo = dict(img_shape=labels.shape, ori_shape=labels.shape, pad_shape=labels.shape)
    return kind(gt_sem_seg=PixelData(data=torch.from_numpy(labels.astype(np.int64))[None]), metainfo=metainfo)


def judge(losses: list[float], weights_are_finite: bool) -> list[str]:
    """What is wrong with a training.

    Args:
        losses: Of all iterations.
        weights_are_finite: Whether all weights are finite at the end.

    Returns:
        Sentences; none if the loss fell to less than :data:`LARGEST_SHARE` and everything is finite.
    """
    wrong = [i for i, loss in enumerate(losses) if not math.isfinite(loss)]
    if wrong:
        return [f'the loss of iteration {wrong[0] + 1} is {losses[wrong[0]]}']
    if not weights_are_finite:
        return ['a weight is not finite at the end']
    tenth = max(1, len(losses) // 10)
    first, last = fmean(losses[:tenth]), fmean(losses[-tenth:])
    if not last < LARGEST_SHARE * first:
        return [f'the loss does not fall: {first:.3f} at the beginning, {last:.3f} at the end']
    return []
