"""Check that label images exist, have one channel and the size of their image, and hold classes of the config."""

import io
import os
from collections import Counter
from typing import Any

import numpy as np
from mmengine.fileio import list_dir_or_file

from .damage import find_damage
from .data_sources import Source
from .files import file_problem, folder_problem
from .findings import Findings
from .images import Decoder, ImageFact, ImageTable, check_existence, inspect_image, report_facts
from .label_values import LabelFact, LabelTable, report_values, seems_offset
from .passes import Pass

LABELS = Decoder('pillow', 'unchanged')


def inspect_labels(path: str, decoder: Decoder = LABELS) -> LabelFact:
    """Read a label image as MMSegmentation does, but without cutting its values down to eight bits.

    Args:
        path: Of the label image.
        decoder: How the pipeline reads it.

    Returns:
        What it holds.
    """
    from PIL import Image

    if problem := file_problem(path):
        return LabelFact(problem=problem)
    try:
        with open(path, 'rb') as file:
            content = file.read()
        with Image.open(io.BytesIO(content)) as header:
            channels = len(header.getbands())
        labels = decoder.decode(content)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return LabelFact(problem=f'cannot be decoded ({reason[0]})')
    if channels > 1:
        equal = labels.ndim == 3 and channels == 3 and (labels == labels[..., :1]).all()
        return LabelFact(
            labels.shape[:2], problem=f'has {channels} channels{", all equal" if equal else ""}', is_coloured=True
        )
    if labels.dtype.kind == 'f':
        return LabelFact(labels.shape[:2], problem='holds decimal numbers')
    values, counts = np.unique(labels, return_counts=True)
    known = tuple(values.astype(int).tolist()), tuple(counts.tolist())
    return LabelFact(labels.shape[:2], *known, is_damaged=bool(find_damage(content)))


def check_labels(source: Source, findings: Findings, options: Pass) -> LabelTable | None:
    """Check images and label images of a data set.

    Args:
        source: A data set of kind ``'labels'``.
        findings: Gets what is wrong.
        options: How much to look at.

    Returns:
        What they hold; None if there is nothing to look at.
    """
    pairs = _list_pairs(source, findings)
    if pairs is None:
        return None
    images, labels = pairs
    table = _make_table(source, images, labels, findings)
    if table is None:
        return None
    where = source.image_folder
    there = set(check_existence(images, where, 'images', findings, Pass()))
    label_folder = source.dataset.data_prefix.get('seg_map_path') or where
    both = there & set(check_existence(labels, label_folder, 'labels', findings, Pass()))
    chosen = options.choose(sorted(both))
    decoder = Decoder.of(source.steps)

    def inspect(index: int) -> tuple[ImageFact, LabelFact]:
        return inspect_image(images[index], decoder, not options.fast), inspect_labels(labels[index], table.decoder)

    _inspect_all(table, inspect, chosen, options)
    if options.fast and seems_offset(table):  # a rare last class may have been missed
        _inspect_all(table, inspect, sorted(both - set(chosen)), options)
    report_facts({images[i]: fact for i, fact in table.images.facts.items()}, where, findings)
    _report_files(table, label_folder, findings)
    report_values(table, source, label_folder, findings)
    return table


def _inspect_all(table: LabelTable, inspect: Any, indices: list[int], options: Pass) -> None:
    for index, outcome in zip(indices, options.run(inspect, indices, 'images and labels')):
        image, label = outcome.value or (ImageFact(problem=outcome.failure), LabelFact(problem=outcome.failure))
        table.images.facts[index], table.facts[index] = image, label


def _list_pairs(source: Source, findings: Findings) -> tuple[list[str], list[str]] | None:
    """All images and label images as the data set itself lists them."""
    dataset = source.dataset
    folders = [source.image_folder, dataset.data_prefix.get('seg_map_path')]
    if not folders[1]:
        text = f'{source.key}.data_prefix names no folder of label images'
        remedy = "Write data_prefix=dict(img_path='images/train', seg_map_path='labels/train')"
        findings.add('label-file', source.key, text, remedy, is_error=source.splits != ('test',))
        return None
    for folder in folders:
        if problem := folder_problem(folder):
            remedy = 'Put the data there, or correct data_root and data_prefix in the config'
            findings.add('folder', folder, f'the folder {problem}', remedy)
            return None
    if dataset.ann_file and (problem := file_problem(dataset.ann_file)) and problem != 'is a folder':
        findings.add('file', dataset.ann_file, f'the list of images {problem}', 'Correct ann_file in the config')
        return None
    try:
        listed = dataset.load_data_list()
    except Exception as error:
        text = f'the images cannot be listed: {error}'
        findings.add('folder', dataset.ann_file or folders[0], text, 'Correct ann_file and data_prefix in the config')
        return None
    if not listed:
        text, remedy = _why_none(source)
        findings.add('folder', folders[0], text, remedy)
        return None
    if not dataset.ann_file:
        suffix = dataset.seg_map_suffix
        found = list_dir_or_file(folders[1], list_dir=False, suffix=suffix, recursive=True)
        alone = sorted({os.path.join(folders[1], name) for name in found} - {one['seg_map_path'] for one in listed})
        if alone:
            text = f'{len(alone):,} label images have no image that ends in {dataset.img_suffix}, and are left out'
            findings.add('label-alone', folders[1], text, 'Look for the images', is_error=False, cases=alone)
    return [one['img_path'] for one in listed], [one['seg_map_path'] for one in listed]


def _why_none(source: Source) -> tuple[str, str]:
    """Say what a folder holds instead of images with the right suffix, and what to do."""
    suffix = source.dataset.img_suffix
    names = list_dir_or_file(source.image_folder, list_dir=False, recursive=True)
    others = Counter('.' + name.rpartition('.')[2] for name in names)
    found = ', '.join(f'{number:,} {name}' for name, number in others.most_common(3)) or 'no files'
    best = others.most_common(1)[0][0] if others else '.png'
    return (
        f'it has no image that ends in {suffix}, but {found}',
        f'Write img_suffix={best!r} for the data set if that is it',
    )


def _make_table(source: Source, images: list[str], labels: list[str], findings: Findings) -> LabelTable | None:
    dataset = source.dataset
    own = getattr(type(dataset), 'METAINFO', {}).get('classes') if dataset.label_map else None
    classes = tuple(own or source.classes)
    if not classes:
        given = dataset.metainfo.get('classes')
        text = f'{source.key}.metainfo.classes is {given!r}, not a tuple of names'
        remedy = (
            "Write metainfo=dict(classes=('a', 'b')) for the data set, in the order of the values in the label images"
        )
        findings.add('classes', source.image_folder, text, remedy)
        return None
    first = int(bool(dataset.reduce_zero_label))
    step = source.steps.get('CheckLabels')
    if step and step.get('num_classes') != len(classes):
        text = f'CheckLabels has num_classes={step.get("num_classes")} for {len(classes)} classes'
        findings.add('classes', source.key, text, f'Write num_classes={len(classes)} there')
    return LabelTable(classes, first, source.ignore_index, ImageTable(images), labels, Decoder.of_labels(source.steps))


def _report_files(table: LabelTable, where: str, findings: Findings) -> None:
    number = len(table.facts)
    for is_coloured, code, text, remedy in (
        (False, 'label-unreadable', 'cannot be read', 'Copy or convert them again, or remove them with their images'),
        (
            True,
            'label-mode',
            'are no label images, which have one channel',
            'Convert each colour to the number of its class',
        ),
    ):
        wrong = {
            table.paths[i]: fact.problem
            for i, fact in table.facts.items()
            if fact.problem and fact.is_coloured == is_coloured
        }
        if wrong:
            cases = [f'{path} {problem}' for path, problem in wrong.items()]
            findings.add(code, where, f'{len(wrong):,} of {number:,} label images {text}', remedy, cases=cases)
    if damaged := [table.paths[i] for i, fact in table.facts.items() if fact.is_damaged]:
        text = f'{len(damaged):,} of {number:,} label images are damaged, but all their pixels are there'
        findings.add('label-damaged', where, text, 'Copy or download them again', is_error=False, cases=damaged)
    other = {
        i: fact
        for i, fact in table.facts.items()
        if not fact.problem and not table.images.facts[i].problem and fact.size != table.images.facts[i].size
    }
    if other:
        turned = sum(fact.size == table.images.facts[i].size[::-1] for i, fact in other.items())
        hint = f' ({turned:,} would fit if turned; mind the EXIF orientation of the images)' if turned else ''
        text = f'{len(other):,} of {number:,} label images have another size than their image{hint}'
        cases = [
            f'{table.paths[i]}: {fact.size[1]} x {fact.size[0]}, not '
            f'{table.images.facts[i].size[1]} x {table.images.facts[i].size[0]}'
            for i, fact in other.items()
        ]
        findings.add('label-size', where, text, 'Make them from the images again, or remove both', cases=cases)
