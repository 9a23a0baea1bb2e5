"""Check an annotation file in COCO's format: its entries, its classes, its masks, and the statistics of its boxes."""

import numpy as np

from .box_formats import outside_share, recognise
from .coco_classes import check_categories
from .coco_masks import inspect_masks
from .coco_schema import CocoFile, read_coco, repeated
from .coco_table import CocoTable, kept_boxes, kept_images, tabulate
from .data_sources import Source
from .findings import Findings

# Shares of boxes above which faults of single boxes count as a fault of the file.
MANY_DROPPED = 0.1
MANY_OUTSIDE = 0.1
MANY_OFF_MASK = 0.2


def check_coco(source: Source, findings: Findings) -> CocoTable | None:
    """Check the annotation file of a data set; images are checked by :mod:`mmtwins.datasets.images`.

    Args:
        source: A data set of kind ``'coco'``.
        findings: Gets what is wrong.

    Returns:
        The annotations; None if the file cannot be read.
    """
    path = str(source.dataset.ann_file or '')
    if not path:
        text = f'{source.key} has no ann_file'
        findings.add('file', source.key, text, 'Name the annotation file, relative to data_root, as ann_file')
        return None
    file = read_coco(path, findings, needs_annotations=source.splits != ('test',))
    if file is None:
        return None
    _check_ids(file, findings)
    check_categories(file, source, findings)
    table = tabulate(file, source.classes)
    _check_references(table, findings)
    if any(annotation.get('segmentation') for annotation in file.annotations) or source.uses_masks:
        table.masks = inspect_masks([one.get('segmentation') for one in file.annotations], table.sizes)
        _check_masks(table, source, findings)
    _check_flags(table, source, findings)
    if not _check_format(table, findings):
        _check_boxes(table, findings)
    _check_use(table, source, findings)
    return table


def _check_ids(file: CocoFile, findings: Findings) -> None:
    for section in ('images', 'annotations', 'categories'):
        if twice := repeated(entry['id'] for entry in getattr(file, section)):
            text = f'{len(twice):,} ids of {section} occur again'
            findings.add('id-twice', file.path, text, 'Give each its own id', cases=[f'id {one}' for one in twice])
    if twice := repeated(image['file_name'] for image in file.images):
        text = f'{len(twice):,} files stand under images more than once'
        remedy = 'Keep one entry for a file: each is trained with a part of the boxes, the rest counts as background'
        findings.add('file-twice', file.path, text, remedy, is_error=False, cases=twice)


def _check_references(table: CocoTable, findings: Findings) -> None:
    path, number = table.file.path, len(table.boxes)
    if lost := np.flatnonzero(~table.known_category).tolist():
        known = sorted(category['id'] for category in table.file.categories)
        text = f'{len(lost):,} of {number:,} annotations have a category_id that no category has'
        remedy = f'Correct the ids (perhaps all are shifted); those of the categories are {_range(known)}'
        cases = [f'{table.name(row)}: category_id {table.file.annotations[row]["category_id"]}' for row in lost[:5]]
        findings.add('unknown-category', path, text, remedy, cases=cases, count=len(lost))
    if lost := np.flatnonzero(table.image_rows < 0).tolist():
        known = sorted(image['id'] for image in table.file.images)
        text = f'{len(lost):,} of {number:,} annotations have an image_id that no image has'
        remedy = (
            f'Correct the ids (perhaps all are shifted), or remove these annotations; the images have {_range(known)}.'
        )
        cases = [table.name(row) for row in lost[:5]]
        code = 'no-image' if len(lost) == number else 'unknown-image'
        findings.add(code, path, text, remedy, cases=cases, count=len(lost))


def _range(ids: list[int]) -> str:
    return f'{ids[0]} to {ids[-1]}' if len(ids) > 1 else str(ids[0]) if ids else 'none'


def _check_masks(table: CocoTable, source: Source, findings: Findings) -> None:
    assert table.masks is not None
    needed, evaluated = source.uses_masks, bool(set(source.splits) - {'train'})
    unused = '' if needed else ', which this config does not read'
    number = len(table.boxes)
    for fault, text, remedy, is_error in (
        ('missing', 'no segmentation', 'Add masks, or train without (with_mask=False, a detector of boxes)', True),
        ('shape', 'a segmentation that is neither a list of polygons [x, y, x, y, ...] of finite numbers nor run lengths',
         'Write it as COCO does', True),
        ('short', 'polygons of less than three points or with half a point, which are left out',
         'Remove them, or give each at least six numbers', evaluated),
        ('far', 'polygons that reach further than an image beside their image', 'Write them in pixels of the image', True),
        ('outside', 'polygons that reach out of their image', 'Cut them off there', False),
        ('size', 'run lengths of another size than their image', 'Write size=[height, width] of the image', True),
        ('counts', 'run lengths that do not cover their image', 'Encode the masks again with pycocotools', True),
        ('empty', 'an empty mask', 'Remove them', False),
    ):  # fmt: skip
        rows = [row for row in table.masks.faults.get(fault, []) if table.image_rows[row] >= 0]
        if fault == 'missing' and not needed:
            continue
        if rows:
            details = table.masks.details
            cases = [f'{table.name(row)}{": " if row in details else ""}{details.get(row, "")}' for row in rows[:5]]
            text = f'{len(rows):,} of {number:,} annotations have {text}{unused}'
            findings.add(
                f'mask-{fault}',
                table.file.path,
                text,
                remedy,
                is_error=is_error and needed,
                cases=cases,
                count=len(rows),
            )


def _check_flags(table: CocoTable, source: Source, findings: Findings) -> None:
    """Check what ``COCOeval`` needs beyond what training needs."""
    if source.splits == ('train',):
        return
    annotations = table.file.annotations
    if rows := [row for row, one in enumerate(annotations) if 'iscrowd' not in one]:
        text = f"{len(rows):,} of {len(annotations):,} annotations have no iscrowd, which COCO's metric reads"
        findings.add(
            'schema', table.file.path, text, 'Add iscrowd=0', cases=[table.name(r) for r in rows[:5]], count=len(rows)
        )
    if any(one['id'] == 0 for one in annotations):
        text = "an annotation has the id 0, with which COCO's metric never counts a match"
        findings.add('id-zero', table.file.path, text, 'Number annotations from 1', is_error=False)


def _check_format(table: CocoTable, findings: Findings) -> bool:
    """Report boxes that are not x, y, width, height in pixels; returns whether they are in another format."""
    known = table.image_rows >= 0
    extents = None if table.masks is None else table.masks.extents[known]
    verdict = recognise(table.boxes[known], table.sizes[known], table.areas[known], extents)
    rows = np.flatnonzero(known)
    if verdict.format != 'x, y, width, height':
        text = f'the boxes look like {verdict.format}, not like x, y, width, height in pixels: {verdict.reason}'
        remedy = 'Convert them to x, y, width, height in pixels of the image.'
        cases = [table.with_box(row) for row in rows[:5]]
        findings.add('box-format', table.file.path, text, remedy, cases=cases, count=len(rows))
        return True
    if verdict.off_mask.any():
        wrong = rows[verdict.off_mask]
        share = len(wrong) / max(int(verdict.compared.sum()), 1)
        text = f'{len(wrong):,} boxes ({share:.1%} of those with a mask) are not where their masks are'
        findings.add(
            'box-not-mask',
            table.file.path,
            text,
            'Compare both with the image, and correct one of them.',
            is_error=share > MANY_OFF_MASK,
            cases=[table.with_box(row) for row in wrong[:5]],
            count=len(wrong),
        )
    return False


def _check_boxes(table: CocoTable, findings: Findings) -> None:
    known = table.image_rows >= 0
    number = max(int(known.sum()), 1)
    beyond = known & (outside_share(table.boxes, table.sizes) > 0.1)
    negative = (table.boxes[:, 2:] < 0).any(1)
    table.kept = kept_boxes(table)
    dropped = np.flatnonzero(known & ~table.kept & ~table.ignored & ~negative)
    outside = np.flatnonzero(beyond & table.kept)
    for code, rows, text, remedy, limit in (
        ('box-negative', np.flatnonzero(known & negative), 'have a negative width or height; MMDetection drops them without '
         'a word', 'Write x, y of the upper left corner, and positive sides', 0),
        ('box-dropped', dropped, 'are outside of their image, or have an area of 0 or a side below one pixel; MMDetection '
         'drops them without a word', 'Correct or remove them.', MANY_DROPPED),
        ('box-outside', outside, 'have more than a tenth of their area outside of their image',
         'Check that they are x, y, width, height in pixels of this image.', MANY_OUTSIDE),
    ):  # fmt: skip
        if len(rows):
            share = len(rows) / number
            findings.add(
                code,
                table.file.path,
                f'{len(rows):,} boxes ({share:.1%}) {text}',
                remedy,
                is_error=share > limit,
                cases=[table.with_box(row) for row in rows[:5]],
                count=len(rows),
            )
    rows = np.concatenate([table.image_rows[:, None], table.labels[:, None], table.boxes], 1)[table.kept & ~table.crowd]
    twice = len(rows) - len(np.unique(rows, axis=0))
    if twice:
        text = f'{twice:,} boxes stand there twice, with the same image and category'
        findings.add('box-twice', table.file.path, text, 'Remove one of each', is_error=False, count=twice)


def _check_use(table: CocoTable, source: Source, findings: Findings) -> None:
    """Check that something is left to learn from, after all that MMDetection leaves out."""
    path = table.file.path
    table.kept = kept_boxes(table) & (table.labels >= 0)
    table.used = table.kept & ~table.crowd
    if source.uses_masks and table.masks is not None:
        table.used &= table.masks.usable
    table.kept_images = kept_images(table, source)
    if not table.file.images:
        findings.add('no-image', path, 'it has no images', 'Export the file again, or name another as ann_file')
    elif not table.kept_images.any():
        text = f'none of its {len(table.file.images):,} images is left after filter_cfg={source.dataset.filter_cfg!r}'
        findings.add('no-image', path, text, 'Correct the annotations or the filter')
    if not table.used.any():
        number = len(table.boxes)
        crowds = number and (table.crowd | table.ignored).all()
        text = (
            'it has no annotation'
            if not number
            else f'all {number:,} annotations are crowds or ignored, so that no model can learn from them'
            if crowds
            else f'none of its {number:,} annotations is a box that a model can learn from'
        )
        remedy = 'Set iscrowd=0 for single objects' if crowds else 'Correct the file, see what else is wrong with it'
        findings.add('no-box', path, text, remedy, is_error=source.splits != ('test',))
        return
    counts = table.class_boxes(table.used)
    empty = [name for name, count in zip(table.classes, counts) if not count]
    if empty and source.is_training:
        shifted = ' (if it is the first or the last, perhaps the ids are shifted by one)' if len(empty) == 1 else ''
        text = f'{len(empty)} of {len(table.classes)} classes have no box{shifted}'
        findings.add('class-empty', path, text, 'Expect nothing for these classes', is_error=False, cases=empty)
