"""Describe a model for the top of the page: task, classes, source, and a metric where one is known."""

from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..analysis.recipe import find_published_run
from ..engine.config_sections import type_of
from ..inference.predictor import Predictor

HEADS = {'UPerHead': 'UPerNet', 'FPNHead': 'Semantic FPN', 'MaskRCNN': 'Mask R-CNN'}
FAMILIES = {'TwinsSVTBackbone': 'Twins-SVT', 'TwinsPCPVTBackbone': 'Twins-PCPVT'}
SIZES = {'small': '-S', 'base': '-B', 'large': '-L'}
METRICS = {'mIoU': 'mIoU', 'coco/segm_mAP': 'mask AP', 'coco/bbox_mAP': 'box AP'}  # by their keys in checkpoints
SHOWN = 12  # classes that are named before the list is opened


class About(NamedTuple):
    """What the top of the page says.

    Attributes:
        task: Task, such as ``'Semantic segmentation'``.
        model: Head and backbone, such as ``'UPerNet with Twins-SVT-S'``.
        classes: Names of the classes.
        facts: Further lines, each a name and a text.
    """

    task: str
    model: str
    classes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def title(self) -> str:
        """Title of the page and of the tab."""
        return f'{self.task}: {self.model}'


def describe(predictor: Predictor) -> About:
    """Collect what is known of a model from its config, its checkpoint and the table of published results.

    Args:
        predictor: The model.

    Returns:
        What is known. It names files but never their folders, because everybody who opens the page reads it.
    """
    cfg, model = predictor.inferencer.cfg, predictor.inferencer.model
    if not predictor.is_detector:
        task = 'Semantic segmentation'
    else:
        task = 'Instance segmentation' if getattr(model, 'with_mask', False) else 'Object detection'
    head = type_of(cfg.model.get('decode_head') or {}) or type_of(cfg.model) if _is_plain(cfg) else type(model).__name__
    backbone = cfg.model.get('backbone') or {}
    arch = backbone.get('arch', 'small') if type_of(backbone) in FAMILIES else ''
    family = FAMILIES.get(type_of(backbone), type_of(backbone))
    size = SIZES.get(arch, '') if isinstance(arch, str) else ' (own architecture)'
    facts = [
        ('Source', f'{_file_name(predictor.checkpoint)}, with the config {_file_name(cfg.filename or "")}'),
        ('Size', f'{sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} M parameters'),
        ('Metric', _metric(predictor, cfg)),
    ]
    name = f'{HEADS.get(head, head)} with {family}{size}' if family else HEADS.get(head, head)
    return About(task, name, predictor.info.classes, tuple(facts))


def as_html(about: About) -> str:
    """Turn a description into HTML; every name is escaped."""
    number, names = len(about.classes), [escape(name) for name in about.classes]
    first = ', '.join(names[:SHOWN])
    if number > SHOWN:
        rest = f'<details><summary>{number} classes: {first} and {number - SHOWN} more</summary>{", ".join(names)}</details>'
    else:
        rest = f'{number} {"class" if number == 1 else "classes"}: {first}'
    rows = ''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in about.facts)
    return f'<h1>{escape(about.title)}</h1><dl><dt>Finds</dt><dd>{rest}</dd>{rows}</dl>'


def _metric(predictor: Predictor, cfg: Any) -> str:
    for key, name in METRICS.items():
        if key in predictor.validations:
            value = predictor.validations[key] * (1 if name == 'mIoU' else 100)
            return f'{name} {value:.1f} at the last validation of its training, as the checkpoint notes'
    run = find_published_run(cfg)
    if run is None or not run.metrics:
        return 'not known: neither the checkpoint nor the table of published results has one'
    values = ', '.join(f'{name} {value:g}' for name, value in run.metrics.items())
    return f"{values}, published for this recipe by Twins' authors (arXiv:2104.13840); not measured on this checkpoint"


def _is_plain(cfg: Any) -> bool:
    head = cfg.model.get('decode_head')
    return head is None or isinstance(head, dict)  # a cascade has a list of heads


def _file_name(path: str | Path) -> str:
    """The last part of a path or URL, without the query of a URL."""
    text = str(path)
    return PurePosixPath(urlsplit(text).path).name if '://' in text else Path(text).name
