"""What a config promises of a training: the published run that it repeats, batch, learning rates, losses of fresh heads."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from ..engine.config_sections import type_of
from .published import RUNS, PublishedRun

_HEADS = {'UPerHead': 'upernet', 'FPNHead': 'fpn', 'MaskRCNN': 'mask-rcnn', 'RetinaNet': 'retinanet'}
_FAMILIES = {'TwinsSVTBackbone': 'svt', 'TwinsPCPVTBackbone': 'pcpvt'}


def find_published_run(cfg: Config) -> PublishedRun | None:
    """Find the published run that a config repeats, by its model, data and length; None if there is none.

    Args:
        cfg: Of a training; its name, learning rate and batch do not count.
    """
    model, backbone, decode_head = (section(cfg, 'model', *keys) for keys in ((), ('backbone',), ('decode_head',)))
    head = _HEADS.get(type_of(decode_head) or type_of(model))
    family, arch = _FAMILIES.get(type_of(backbone)), backbone.get('arch', 'small')
    if family is None or not isinstance(arch, str) or {'window_sizes', 'sr_ratios', 'subsampling'} & set(backbone):
        return None
    dataset = type_of(section(cfg, 'train_dataloader', 'dataset'))
    size = str(section(model, 'data_preprocessor').get('size')).strip('[]()')
    epochs = section(cfg, 'train_cfg').get('max_epochs', 0)
    for run in RUNS.values():
        schedule = run.schedule
        if (schedule.head, run.backbone) != (head, f'{family}-{arch[0]}'):
            continue
        if schedule.dataset == 'ade20k':
            expected = ('ADE20KDataset', 150, '{0}, {0}'.format(*schedule.size))
            if (dataset, decode_head.get('num_classes'), size) == expected:
                return run
        elif (dataset, epochs) == ('CocoDataset', schedule.epochs):
            heads = (section(model, 'bbox_head'), section(model, 'roi_head', 'bbox_head'))
            if 80 in [head.get('num_classes') for head in heads]:
                return run
    return None


def section(cfg: Config | dict, *keys: str) -> dict:
    """A part of a config by its keys; empty where it is missing or no dict, such as the heads of a cascade."""
    found: Any = cfg
    for key in keys:
        found = found.get(key) if isinstance(found, dict | Config) else None
    return found if isinstance(found, dict) else {}


def images_per_gpu(cfg: Config) -> int:
    """Images that one process loads for an iteration."""
    loader = section(cfg, 'train_dataloader')
    return loader.get('batch_size') or section(loader, 'batch_sampler').get('batch_size') or 1


def total_batch(cfg: Config, world_size: int | None) -> int | None:
    """Images per step of the optimizer; None where the number of processes is not known."""
    if world_size is None:
        if cfg.get('launcher', 'none') != 'none':
            return None
        world_size = 1
    return world_size * images_per_gpu(cfg) * section(cfg, 'optim_wrapper').get('accumulative_counts', 1)


def rate_scale(cfg: Config, world_size: int | None) -> float | None:
    """What ``--auto-scale-lr`` multiplies the learning rate by; None where the number of processes is not known."""
    scaling = section(cfg, 'auto_scale_lr')
    if not scaling.get('enable') or not scaling.get('base_batch_size'):
        return 1.0
    if world_size is None and cfg.get('launcher', 'none') != 'none':
        return None
    return (world_size or 1) * images_per_gpu(cfg) / scaling['base_batch_size']  # MMEngine leaves accumulation out


def scheduled_rates(
    cfg: Config, iterations: Sequence[int], epochs: Sequence[int], epoch_length: int | None, scale: float = 1.0
) -> np.ndarray | None:
    """The learning rates that MMEngine's own schedulers give for a config.

    Args:
        cfg: With ``optim_wrapper.optimizer.lr`` and ``param_scheduler``.
        iterations: Counted from 0, in order.
        epochs: Finished epochs at each of them.
        epoch_length: Iterations of an epoch, for schedulers that need it.
        scale: Factor of the learning rate, for another batch size.

    Returns:
        (len(iterations),), or None where they cannot be computed: several optimizers, or a scheduler that is not known here.
    """
    rate = section(cfg, 'optim_wrapper', 'optimizer').get('lr')
    given = cfg.get('param_scheduler') or []
    given = [given] if isinstance(given, dict) and 'type' in given else given
    if not isinstance(rate, int | float) or not isinstance(given, list | tuple):
        return None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate * scale)
    schedulers = []
    try:
        with DefaultScope.overwrite_default_scope('mmengine'):
            for scheduler in given:
                scheduler = dict(scheduler)
                if 'Momentum' in type_of(scheduler):
                    continue
                if scheduler.pop('convert_to_iter_based', False):
                    build = PARAM_SCHEDULERS.get(scheduler.pop('type')).build_iter_from_epoch
                    schedulers.append(build(optimizer=optimizer, epoch_length=epoch_length, **scheduler))
                else:
                    schedulers.append(PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=optimizer)))
    except Exception as error:  # those of other libraries, with any arguments
        print_log(
            f'the learning rate is not checked: {type(error).__name__}: {error}',
            logger='current',
            level=logging.WARNING,
        )
        return None
    optimizer.step()  # or the schedulers warn of a wrong order
    rates, done, finished = np.empty(len(iterations)), 0, 0
    for index, (iteration, epoch) in enumerate(zip(iterations, epochs)):
        for by_epoch, steps in ((True, epoch - finished), (False, iteration - done)):
            for _ in range(steps):
                for scheduler in schedulers:
                    if scheduler.by_epoch is by_epoch:
                        scheduler.step()
        done, finished = iteration, epoch
        rates[index] = optimizer.param_groups[0]['lr']
    return rates


def fresh_losses(cfg: Config) -> dict[str, float]:
    """The losses of heads that give all classes the same probability, as fresh heads do, by their names in the log.

    They are upper bounds for MMSegmentation, whose mean counts ignored pixels as 0.

    Args:
        cfg: Of a training; losses without a formula are left out.
    """
    losses: dict[str, float] = {}
    for key, prefix in (('decode_head', 'decode'), ('auxiliary_head', 'aux')):
        heads = section(cfg, 'model').get(key)
        if not isinstance(heads, list | tuple):
            _add_segmentation_losses(losses, prefix, section(cfg, 'model', key))
        else:
            for index, head in enumerate(heads):
                _add_segmentation_losses(losses, f'{prefix}_{index}', head)
    for keys, name in ((('rpn_head',), 'loss_rpn_cls'), (('roi_head', 'bbox_head'), 'loss_cls')):
        head = section(cfg, 'model', *keys)
        loss = section(head, 'loss_cls')
        if type_of(loss) == 'CrossEntropyLoss' and not loss.get('class_weight'):
            choices = 2 if loss.get('use_sigmoid') else head.get('num_classes', 1) + 1  # and the background
            losses[name] = loss.get('loss_weight', 1.0) * math.log(choices)
    return losses


def _add_segmentation_losses(losses: dict[str, float], prefix: str, head: dict) -> None:
    given = head.get('loss_decode') or {}
    for loss in given if isinstance(given, list | tuple) else [given]:
        if type_of(loss) != 'CrossEntropyLoss' or loss.get('class_weight') or not head.get('num_classes'):
            continue
        choices = 2 if loss.get('use_sigmoid') else head['num_classes']
        name = f'{prefix}.{loss.get("loss_name", "loss_ce")}'
        losses[name] = losses.get(name, 0.0) + loss.get('loss_weight', 1.0) * math.log(choices)
