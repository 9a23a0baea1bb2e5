"""The annotations of a COCO file as arrays, and what MMDetection keeps of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .coco_masks import Masks
from .coco_schema import CocoFile, entries_by_id
from .data_sources import Source


@dataclass
class CocoTable:
    """The annotations of a file as arrays, one row each; only those that follow the schema.

    Attributes:
        file: The entries themselves.
        classes: The config's classes.
        image_rows: Index into ``file.images``; -1 for an image that the file does not have.
        labels: Index into ``classes`` by name; -1 for a category that is not a class.
        known_category: Whether the file has the category.
        sizes: Height and width of the image, in pixels, (N, 2); 0 where it is unknown.
        boxes: x, y, width, height, (N, 4).
        areas: Stated areas, in pixels.
        crowd: ``iscrowd``.
        ignored: ``ignore``.
        masks: See :class:`mmtwins.datasets.coco_masks.Masks`; None in a file without masks.
        kept: Boxes that MMDetection does not drop.
        used: Boxes that a model is trained with.
        kept_images: Images that MMDetection does not filter out, (images,) bool.
    """

    file: CocoFile
    classes: tuple[str, ...]
    image_rows: np.ndarray
    labels: np.ndarray
    known_category: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    masks: Masks | None = None
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    used: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    kept_images: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def class_boxes(self, rows: np.ndarray) -> np.ndarray:
        """Boxes of each class among those that a mask (N,) chooses, in the order of the classes."""
        return np.bincount(self.labels[rows], minlength=len(self.classes))

    def name(self, row: int) -> str:
        """A name of an annotation for messages: its id and the file of its image."""
        annotation = self.file.annotations[row]
        image = self.image_rows[row]
        where = self.file.images[image]['file_name'] if image >= 0 else f'image {annotation["image_id"]}'
        return f'annotation {annotation["id"]} in {where}'

    def with_box(self, row: int) -> str:
        """A name of an annotation for messages, with its box."""
        return f'{self.name(row)}: {self.file.annotations[row]["bbox"]}'


def tabulate(file: CocoFile, classes: tuple[str, ...]) -> CocoTable:
    """Put the annotations of a file into arrays."""
    annotations = file.annotations
    number = len(annotations)
    rows = {image['id']: index for index, image in enumerate(file.images)}
    names = {one: entry['name'] for one, entry in entries_by_id(file.categories).items()}
    order = {name: index for index, name in enumerate(classes)}
    image_rows = np.fromiter((rows.get(one['image_id'], -1) for one in annotations), np.int64, number)
    all_sizes = np.array([[image['height'], image['width']] for image in file.images] + [[0, 0]], np.int64)
    return CocoTable(
        file,
        classes,
        image_rows,
        labels=np.fromiter((order.get(names.get(one['category_id'], ''), -1) for one in annotations), np.int64, number),
        known_category=np.fromiter((one['category_id'] in names for one in annotations), bool, number),
        sizes=all_sizes[image_rows],
        boxes=np.array([one['bbox'] for one in annotations], np.float64).reshape(-1, 4),
        areas=np.fromiter((one['area'] for one in annotations), np.float64, number),
        crowd=np.fromiter((bool(one.get('iscrowd')) for one in annotations), bool, number),
        ignored=np.fromiter((bool(one.get('ignore')) for one in annotations), bool, number),
    )


def kept_boxes(table: CocoTable) -> np.ndarray:
    """Boxes that ``CocoDataset`` keeps, before it looks at categories."""
    x, y, width, height = table.boxes.T
    image_height, image_width = table.sizes.T
    inner_width = np.minimum(x + width, image_width) - np.maximum(x, 0)
    inner_height = np.minimum(y + height, image_height) - np.maximum(y, 0)
    inside = (np.maximum(inner_width, 0) * np.maximum(inner_height, 0)) > 0
    return (table.image_rows >= 0) & ~table.ignored & inside & (table.areas > 0) & (width >= 1) & (height >= 1)


def kept_images(table: CocoTable, source: Source) -> np.ndarray:
    """Images that ``CocoDataset.filter_data`` keeps."""
    number = len(table.file.images)
    filters: Any = source.dataset.filter_cfg
    if source.dataset.test_mode or not filters:
        return np.ones(number, bool)
    sides = np.array([[image['height'], image['width']] for image in table.file.images]).reshape(-1, 2)
    kept = sides.min(1, initial=2**20) >= (filters.get('min_size') or 0)
    if filters.get('filter_empty_gt'):
        has_box = np.zeros(number, bool)
        has_box[table.image_rows[(table.image_rows >= 0) & (table.labels >= 0)]] = True
        kept &= has_box
    return kept
