"""Lines of the block before the first iteration: batch, classes, disk, results, and how to resume."""

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config
from mmengine.device import get_device

from ..datasets.data_report import Report
from ..datasets.data_sources import numbers_of_classes
from .checkpoint_room import Room, describe_interval
from .hooks import Batch


class Line(NamedTuple):
    """A line of the block: its subject, its text, and whether the reader should act on it."""

    subject: str
    text: str
    is_loud: bool = False


def describe_batch(cfg: Config, processes: int) -> Line:
    """Compare the images of a step with the number that the learning rate is for.

    Args:
        cfg: The whole config.
        processes: GPUs, or processes on CPUs.

    Returns:
        The line; loud if the learning rate is for another batch.
    """
    batch = Batch.of(cfg, processes)
    unit = 'CPU process' if get_device() == 'cpu' else 'GPU'
    units = unit if processes == 1 else 'CPU processes' if unit == 'CPU process' else 'GPUs'
    images = f'{batch.images} image{"" if batch.images == 1 else "s"}'
    accumulated = f' x {batch.accumulated} accumulated iterations' if batch.accumulated > 1 else ''
    text = f'{processes} {units} x {images}{accumulated} = {batch.total} a step'
    optimizer = cfg.optim_wrapper.get('optimizer')
    rate = optimizer.get('lr') if isinstance(optimizer, Mapping) else None
    rate = 'the learning rate' + (f' {rate:g}' if isinstance(rate, int | float) else '')
    if not batch.expected:
        return Line('batch', f'{text}; for how many {rate} is, the config does not say (auto_scale_lr.base_batch_size)')
    factor = batch.total / batch.expected
    if batch.is_scaled:
        scaled = processes * batch.images / batch.expected  # MMEngine leaves accumulation out
        is_right = scaled == factor
        text += f', {rate} is for {batch.expected} and is scaled by {scaled:g}'
        return Line(
            'batch', text + ('' if is_right else f', not by {factor:g}: MMEngine ignores accumulation'), not is_right
        )
    if batch.fits:
        return Line('batch', f'{text}, which {rate} is for')
    return Line(
        'batch', f'{text}, but {rate} is for {batch.expected}: scale it by {factor:g} with --auto-scale-lr', True
    )


def describe_classes(cfg: Config, report: Report) -> Line:
    """Compare the classes found in the training data with ``num_classes`` of the heads.

    Args:
        cfg: The whole config.
        report: The report of the data, without errors.

    Returns:
        The line.
    """
    heads = sorted(set(numbers_of_classes(cfg).values()))
    parts = []
    for source in report.sources:
        numbers = source.numbers
        if 'train' not in source.name.partition(':')[0]:
            continue
        if 'classes found' not in numbers:
            parts.append(f'not checked in {source.path}')
        elif 'pairs looked into' in numbers:
            of = f'{numbers["pairs looked into"]:,} label images'
            parts.append(f'{numbers["classes found"]} of {numbers["classes"]} found in {of}')
        else:
            of = f'{numbers["boxes to train with"]:,} annotations'
            parts.append(f'{numbers["classes found"]} of {numbers["classes"]} found in {of}')
    text = '; '.join(parts)
    if heads:
        text += f'; num_classes={" and ".join(map(str, heads))} in the heads'
    if report.warnings:
        number = len(report.warnings)
        text += f'; {number} warning{"" if number == 1 else "s"}, see `mmtwins check-data`'
    return Line('classes', text)


def describe_disk(room: Room | None) -> Line:
    """Compare the free room on the disk with what the checkpoints need.

    Args:
        room: See :func:`mmtwins.engine.checkpoint_room.measure_room`.

    Returns:
        The line; loud if the disk has too little room for all checkpoints.

    Raises:
        ValueError: The disk has no room for one checkpoint.
    """
    if room is None:
        return Line('disk', 'not checked: checkpoints are not written, or not to a local disk')
    size, free = _bytes(room.size), _bytes(room.free)
    if room.free < room.size:
        raise ValueError(
            f'a checkpoint needs about {size}, and the disk of {room.folder} has {free} left: make room, or name another '
            'folder with --work-dir'
        )
    if room.needed is None:
        return Line('disk', f'{free} free, about {size} for each checkpoint, all are kept')
    kept = f'{room.count} checkpoint{"" if room.count == 1 else "s"} of about {size}'
    text = f'{_bytes(room.needed)} for {kept} and one more while it is written'
    if room.free < room.needed:
        remedy = 'make room, or keep fewer with --cfg-options default_hooks.checkpoint.max_keep_ckpts=3'
        return Line('disk', f'TOO LITTLE: {free} free, but {text}; {remedy}', True)
    return Line('disk', f'{free} free, {text}')


def _bytes(number: int) -> str:
    return f'{number / 1e9:,.1f} GB' if number >= 1e9 else f'{number / 1e6:,.1f} MB'


def describe_results(cfg: Config, room: Room | None) -> Line:
    """Where logs, checkpoints and pictures go."""
    apart = room is not None and str(room.folder) != str(cfg.work_dir)
    text = f'{cfg.work_dir}' + (f', checkpoints in {room.folder}' if room and apart else '')
    pictures = (cfg.get('default_hooks') or {}).get('pictures')
    if pictures and pictures.get('draw', True):
        text += ', pictures of the training in pictures/'
    return Line('results', text)


def describe_resume(cfg: Config) -> Line:
    """How to continue the training when it is interrupted."""
    interval = describe_interval(cfg)
    if interval is None:
        return Line('resume', 'not possible: the config writes no checkpoints (default_hooks.checkpoint)', True)
    return Line('resume', f'the same command with --resume; a checkpoint is written {interval}')
