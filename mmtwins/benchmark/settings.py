"""What settings of a config do to the time of a whole model, and to its results."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from ..engine.channels_last import use_channels_last
from .real_batches import batches_of
from .whole_models import WARM_UP_ROUNDS, Batch, WholeStep, WholeTask, find_boxes, time_steps

PLAIN = 'as it is'


@dataclass(frozen=True)
class Setting:
    """A way to run the same model.

    Attributes:
        change: Applied to the model before it runs.
        precision: Another precision than float32.
        works: Where it can be used.
    """

    change: Callable[[Any], object] = lambda model: None
    precision: str = 'fp32'
    works: Sequence[str] = ('inference', 'training')


@dataclass(frozen=True)
class Effect:
    """What a setting does.

    Attributes:
        seconds: Of an iteration, a value per round.
        parts: Median seconds by part.
        difference: Largest difference of the head's scores from those without the setting, as a share of the largest
            score; None in training.
        equal: Share of pixels that get the same class as without the setting; None for detectors and in training.
    """

    seconds: tuple[float, ...]
    parts: dict[str, float]
    difference: float | None = None
    equal: float | None = None


def fuse_preprocessing(model: Any) -> None:
    """Let a model order channels and normalise in one buffer per image; the result is the same to the bit."""
    processor = model.data_preprocessor
    if not getattr(processor, '_enable_normalize', False):
        return
    plain = processor.forward
    mean, std, flips = processor.mean, processor.std, _flips_channels(processor)
    processor._enable_normalize, processor.channel_conversion, processor._channel_conversion = False, False, False

    def forward(self: Any, data: Batch, training: bool = False) -> Any:
        images = []
        for image in data['inputs']:
            if flips:
                image = image.flip(0)
            image = image.to(mean.device, torch.float32, copy=True)
            images.append(image.sub_(mean).div_(std))
        return plain({**data, 'inputs': images}, training)

    processor.forward = MethodType(forward, processor)


def _flips_channels(processor: Any) -> bool:
    return bool(getattr(processor, 'channel_conversion', False) or getattr(processor, '_channel_conversion', False))


def fuse_batch_norm(model: Any) -> None:
    """Put the running statistics of batch norms into the convolutions before them, as mmcv does."""
    from mmcv.cnn.utils import fuse_conv_bn

    fuse_conv_bn(model)


def slide(model: Any, side: int) -> None:
    """Let a segmentor look at squares that overlap by a third, instead of at the whole image."""
    model.test_cfg.update(mode='slide', crop_size=(side, side), stride=(side * 2 // 3,) * 2)


def settings_for(task: WholeTask, is_segmentor: bool) -> dict[str, Setting]:
    """The settings that fit a task, by name; the first changes nothing."""
    settings = {
        PLAIN: Setting(),
        'ChannelsLastHook': Setting(use_channels_last),
        'fused batch norm': Setting(fuse_batch_norm, works=('inference',)),
        'fused pre-processing': Setting(fuse_preprocessing),
        'bf16': Setting(precision='bf16'),
        'bf16, ChannelsLastHook': Setting(use_channels_last, 'bf16'),
    }
    if is_segmentor and task.height != task.width:
        settings['slide instead of whole'] = Setting(
            partial(slide, side=min(task.height, task.width)), works=('inference',)
        )
    return {name: setting for name, setting in settings.items() if task.work in setting.works}


def measure_settings(task: WholeTask, rounds: int = 3) -> dict[str, Effect]:
    """Time a whole model with each setting in turn, and compare its scores.

    Args:
        task: What to run, in float32.
        rounds: How often to time each, after one iteration to warm up.

    Returns:
        Effects by name of the setting.
    """
    cfg = task.load()
    settings = settings_for(task, cfg.get('default_scope') == 'mmseg')
    steps = {
        name: WholeStep(replace(task, precision=setting.precision), cfg, 'mmtwins', setting.change)
        for name, setting in settings.items()
    }
    batches = batches_of(cfg, task.work, task.batch, WARM_UP_ROUNDS + rounds)
    compared: dict[str, tuple[float | None, float | None]] = dict.fromkeys(steps, (None, None))
    if task.work == 'inference':
        scores = {name: scores_of(step, batches[0]) for name, step in steps.items()}
        compared = {name: compare_scores(scores[PLAIN], found) for name, found in scores.items()}
        for step in steps.values():
            find_boxes(step, batches[0])
        batches = batches[WARM_UP_ROUNDS:]  # to find scores warmed up
    seconds, parts = time_steps(steps, batches, len(batches) - rounds)
    return {name: Effect(seconds[name], parts[name], *compared[name]) for name in steps}


def scores_of(step: WholeStep, batch: Batch) -> list[Tensor]:
    """The scores of a segmentor (classes, H, W) per image, or of a detector's first head per level."""
    model, seen = step.model, []
    head = getattr(model, 'rpn_head', None) or getattr(model, 'bbox_head', None)
    if head is None and not hasattr(model, 'decode_head'):
        kind = type(model).__name__
        raise ValueError(
            f'{kind} has no decode head, RPN or box head, whose scores --settings compares: give another model'
        )
    if head is None:
        return [sample.seg_logits.data.float() for sample in step(copy.deepcopy(batch))]
    handle = head.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    step(copy.deepcopy(batch))
    handle.remove()
    return [level.float() for level in seen[0]]


def compare_scores(plain: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[float, float | None]:
    """The largest difference as a share of the largest score, and of segmentors the share of equal classes."""
    largest = max(float(one.abs().max()) for one in plain)
    difference = max(float((one - two).abs().max()) for one, two in zip(plain, other, strict=True)) / largest
    if plain[0].dim() != 3:
        return difference, None
    equal = [(one.argmax(0) == two.argmax(0)).float().mean() for one, two in zip(plain, other, strict=True)]
    return difference, float(torch.stack(equal).mean())
