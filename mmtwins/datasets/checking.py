"""Check the data sets of a config: everything, or a fast check before a training, whose result is kept."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .coco import check_coco
from .coco_table import CocoTable
from .data_report import Report, SourceReport
from .data_sources import SPLITS, Source, find_sources, numbers_of_classes
from .files import file_problem
from .findings import Findings, check_allowed
from .images import Decoder, ImageTable, check_images
from .label_values import LabelTable
from .labels import check_labels
from .passes import SAMPLE, Pass
from .trial import try_pipeline

VERSION = 3  # raise it when a check changes, so that nothing kept by an older one is used


@dataclass
class Checked:
    """A data set and what was read from it, for pictures.

    Attributes:
        source: The data set.
        report: What was found.
        coco: Its annotations, if the kind is ``'coco'``.
        images: Its images, if the kind is ``'coco'``.
        labels: Its label images and images, if the kind is ``'labels'``.
        favourites: Paths of its most unusual images, to try in the pipeline.
    """

    source: Source
    report: SourceReport
    coco: CocoTable | None = None
    images: ImageTable | None = None
    labels: LabelTable | None = None
    favourites: list[str] = field(default_factory=list)


def check_datasets(
    cfg: Config, splits: Iterable[str] = SPLITS, options: Pass | None = None, allow: Iterable[str] = ()
) -> list[Checked]:
    """Check the data that a config reads.

    Args:
        cfg: The whole config; ``check_data = dict(allow=[...])`` in it allows more.
        splits: Some of ``'train'``, ``'val'`` and ``'test'``.
        options: How much to look at; None looks at everything.
        allow: Codes of faults that are intended and become warnings.

    Returns:
        What was read and found, one entry for each data set.

    Raises:
        ValueError: The config has no data, its data sets cannot be built, or a code cannot be allowed.
    """
    options = options or Pass.whole()
    allowed = check_allowed([*allow, *_allowed_by(cfg)])
    checked: list[Checked] = []
    collected: list[Findings] = []
    for source in find_sources(cfg, tuple(splits)):
        one, findings = Checked(source, SourceReport(source.name, _path(source))), Findings(allowed)
        if source.kind == 'coco':
            _check_coco(one, findings, options)
        elif source.kind == 'labels':
            _check_labels(one, findings, options)
        else:
            text = f'{source.type_name} reads its data in a way of its own, or not from a local disk'
            remedy = 'Look at some samples, these checks know label images and COCO files only'
            findings.add('not-checked', source.key, text, remedy, is_error=False)
        if source.kind:
            _check_heads(cfg, source, findings)
            _check_evaluator(source, findings)
        checked.append(one)
        collected.append(findings)
    if not options.fast:
        for split in SPLITS:
            _try_split(cfg, split, checked, collected)
    for one, findings in zip(checked, collected):
        one.report.findings = findings.finish()
    return checked


def report_on(checked: Iterable[Checked], fast: bool = False) -> Report:
    """Make a report of what :func:`check_datasets` returned."""
    return Report([one.report for one in checked], fast)


def check_before_training(cfg: Config, *splits: str, cache: str | Path | None = None) -> Report:
    """The fast check: whole annotation files, and a sample of the images and label images.

    The result is kept in ``cache`` with the sizes and times of the files and folders that were read. If neither these nor
    the config change, the next call returns it without checking again. Call this in one process only, and call
    :meth:`mmtwins.datasets.data_report.Report.raise_errors` on the report.

    Args:
        cfg: The whole config, see :func:`check_datasets`.
        splits: The splits that will be read, some of ``'train'``, ``'val'`` and ``'test'``.
        cache: Folder for results; None means ``mmtwins/data`` in the user's cache folder.

    Returns:
        The report.

    Raises:
        ValueError: See :func:`check_datasets`.
    """
    folder = Path(cache or Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmtwins' / 'data')
    path = folder / f'{_key(cfg, splits)}.json'
    try:
        kept = json.loads(path.read_text())
        if kept['files'] == {name: _stamp(name) for name in kept['files']}:
            return Report.from_dict(kept['report'])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    checked = check_datasets(cfg, splits, Pass(fast=True, progress=sys.stderr.isatty()))
    report = report_on(checked, fast=True)
    files = {name: _stamp(name) for one in checked for name in _files_of(one)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f'.{os.getpid()}')
        partial.write_text(json.dumps(dict(files=files, report=report.to_dict())))
        os.replace(partial, path)
    except OSError:
        pass  # without a writable cache, the next start checks again, nothing else
    return report


def _check_coco(one: Checked, findings: Findings, options: Pass) -> None:
    source = one.source
    one.coco = table = check_coco(source, findings)
    if table is None:
        return
    images = [image for image, kept in zip(table.file.images, table.kept_images) if kept] or table.file.images
    paths = [os.path.join(source.image_folder, image['file_name']) for image in images]
    sizes = [(image['height'], image['width']) for image in images]
    one.images = check_images(paths, sizes, Decoder.of(source.steps), table.file.path, findings, options)
    one.report.numbers = {
        'images': len(table.file.images),
        'annotations': len(table.boxes),
        'classes': len(table.classes),
        'classes found': len(set(table.labels[table.used].tolist()) - {-1}),
        'boxes to train with': int(table.used.sum()),
        'images looked into': len(one.images.facts),
    }
    boxes = table.class_boxes(table.used).tolist()
    one.report.shares = {name: number / max(sum(boxes), 1) for name, number in zip(table.classes, boxes)}
    one.favourites = _favourites(one.images)


def _check_labels(one: Checked, findings: Findings, options: Pass) -> None:
    one.labels = table = check_labels(one.source, findings, options)
    if table is None:
        return
    pixels, total = table.class_pixels(), sum(table.pixels().values())
    one.report.numbers = {
        'images': len(table.images.paths),
        'classes': len(table.classes),
        'classes found': sum(number > 0 for number in pixels),
        'pairs looked into': len(table.facts),
        'pixels of no class': f'{1 - sum(pixels) / total:.1%}' if total else 'unknown',
    }
    one.report.shares = {name: number / max(total, 1) for name, number in zip(table.classes, pixels)}
    one.favourites = _favourites(table.images)


def _try_split(cfg: Config, split: str, checked: list[Checked], collected: list[Findings]) -> None:
    """Load a batch of a split, unless it has errors or an earlier split has the same data."""
    parts = [(one, findings) for one, findings in zip(checked, collected) if split in one.source.splits]
    is_new = any(one.source.splits[0] == split for one, _ in parts)
    is_right = all(one.source.kind and not any(f.is_error for f in findings.finish()) for one, findings in parts)
    if is_new and is_right:
        favourites = [path for one, _ in parts for path in one.favourites]
        try_pipeline(cfg, split, favourites, parts[0][1])


def _favourites(images: ImageTable) -> list[str]:
    """The images on which a pipeline most likely fails: narrowest, smallest, largest, longest."""
    known = [(images.paths[i], fact.size) for i, fact in images.facts.items() if min(fact.size) > 0]
    if not known:
        return []
    rankings: list[Any] = [
        lambda size: min(size),
        lambda size: size[0] * size[1],
        lambda size: -size[0] * size[1],
        lambda size: min(size) / max(size),
    ]
    return list(dict.fromkeys(min(known, key=lambda entry: ranking(entry[1]))[0] for ranking in rankings))


def _check_heads(cfg: Config, source: Source, findings: Findings) -> None:
    number = len(source.classes)
    wrong = {key: found for key, found in numbers_of_classes(cfg).items() if found != number}
    if wrong and number:
        cases = [f'{key}.num_classes={found}' for key, found in wrong.items()]
        text = f'the data set has {number} classes, but heads of the model have another number'
        findings.add('num-classes', source.key, text, f'Write num_classes={number} for them.', cases=cases)


def _check_evaluator(source: Source, findings: Findings) -> None:
    """Check that a COCO metric reads the data set's annotation file; otherwise the first validation would fail."""
    if source.kind != 'coco':
        return
    own = os.path.realpath(str(source.dataset.ann_file))
    for file in source.evaluator_files:
        if os.path.realpath(file) != own:
            problem = file_problem(file)
            text = f'the metric reads this annotation file{f", which {problem}" if problem else ""}, the data set another one'
            remedy = f'Write ann_file={str(source.dataset.ann_file)!r} for the metric'
            findings.add('evaluator-file', file, text, remedy)


def _allowed_by(cfg: Config) -> list[str]:
    """``check_data.allow`` of a config."""
    found = cfg.get('check_data') or {}
    codes = found.get('allow', []) if isinstance(found, dict) else found
    if not isinstance(codes, list | tuple) or not all(isinstance(code, str) for code in codes):
        raise ValueError(f"check_data={found!r} of the config: write check_data = dict(allow=['box-outside'])")
    return list(codes)


def _path(source: Source) -> str:
    return str(source.dataset.ann_file or source.image_folder) if source.dataset is not None else source.type_name


def _key(cfg: Config, splits: Iterable[str]) -> str:
    """A name for all settings that a check depends on."""
    parts = [cfg.get(f'{split}_{kind}') for split in splits for kind in ('dataloader', 'evaluator')]
    heads = sorted(numbers_of_classes(cfg).items())
    text = repr(
        [VERSION, SAMPLE, os.getcwd(), list(splits), parts, heads, cfg.get('check_data'), cfg.get('default_scope')]
    )
    return hashlib.sha256(text.encode(errors='replace')).hexdigest()[:32]


def _files_of(checked: Checked) -> list[str]:
    """The files and folders that a check depended on."""
    source = checked.source
    if source.dataset is None:
        return []
    files = [source.dataset.ann_file, *source.dataset.data_prefix.values(), *source.evaluator_files]
    images = checked.images or (checked.labels.images if checked.labels else None)
    if images:
        looked = list(images.facts)[:: max(len(images.facts) // SAMPLE, 1)]
        files += [images.paths[i] for i in looked]
        files += [checked.labels.paths[i] for i in looked] if checked.labels else []
        files += {os.path.dirname(path) for path in images.paths}
    return sorted({str(file) for file in files if file})


def _stamp(path: str) -> list[int]:
    """Size and time of a file or folder; empty if there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]
