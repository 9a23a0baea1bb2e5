"""Data transforms that mmseg and mmdet lack: checks of what was loaded, with the name of the file."""

import io
import os
import zlib

import numpy as np
from mmengine.registry import TRANSFORMS

from .reading import Reading, last_reading, read, warn_once

GOES_ON = 'the run goes on with what is there of it, as the public code does; copy or download it again'
_PATH = (str, os.PathLike)


@TRANSFORMS.register_module()
class CheckImage:
    """Warn once of an image file that is damaged but decodes, such as a JPEG without its end.

    Goes after ``LoadImageFromFile``. Nothing is read again if that has ``backend_args=dict(backend='checked')``, as in the
    recipes, which also names files that do not decode. Otherwise the first and last bytes of a JPEG are read again.

    Raises:
        ValueError: The image is not loaded yet, and does not decode.
    """

    def __call__(self, results: dict) -> dict:
        path = results.get('img_path')
        if not isinstance(path, _PATH):
            return results
        reading = last_reading(path)
        if reading is None and not ('img' in results and _seems_whole(path)):
            reading = read(path)
        if reading is not None and reading.fault:
            warn_once(f'{path} {reading.fault}: {GOES_ON}')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


def _seems_whole(path: str | os.PathLike) -> bool:
    """Whether a local file is no JPEG, or one that ends as it must."""
    try:
        with open(path, 'rb') as file:
            start = file.read(2)
            file.seek(-2, os.SEEK_END)
            return start != b'\xff\xd8' or file.read(2) == b'\xff\xd9'
    except OSError:  # too short, or not local
        return False


@TRANSFORMS.register_module()
class CheckLabels:
    """Refuse an annotation image that does not fit its image, or has a label that the model has no class for.

    Goes after ``LoadAnnotations``. Nothing is read or decoded again if that has
    ``backend_args=dict(backend='checked', decoder='pillow')``, as in the recipes, unless a pixel has more than eight bits:
    MMSegmentation cuts labels down to eight, and 300 becomes class 44. Without the check a label without a class ends in
    an index error of the loss, on a GPU in a device assertion that names no file; an annotation of another size gives
    pixels the labels of others.

    255 is no class in MMSegmentation, neither for losses nor for metrics. It is warned of once a run if nothing says
    that it is meant. Files that are damaged but decode are warned of once each.

    Args:
        num_classes: Classes of the data set. In the file they are 1 to ``num_classes`` with 0 = other where the data
            set has ``reduce_zero_label``, as ADE20K has, else 0 to ``num_classes`` - 1.
        ignore_label: A further value in the file that stands for no class, such as 255.

    Raises:
        ValueError: A pixel has another label, or the file is no label image, does not decode, or is not as large as the
            image.
    """

    def __init__(self, num_classes: int, ignore_label: int | None = None) -> None:
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self._seen: set[int] = set()  # files whose values were looked at, with the same content

    def __call__(self, results: dict) -> dict:
        path = results.get('seg_map_path')
        if path is None:
            return results
        reading = last_reading(path) or read(path, decoder='pillow')
        if reading.fault:
            warn_once(f'{path} {reading.fault}: {GOES_ON}')
        reduced = bool(results.get('reduce_zero_label'))
        labels = results.get('gt_seg_map')
        if labels is None or not 0 < reading.bits <= 8:
            original = self._decode(reading, reduced)
            if labels is None:
                labels = original.astype(np.uint8)
                if reduced:
                    labels = np.where(labels == 255, labels, labels - np.uint8(1))  # 0 becomes 255
        if labels.ndim == 3:
            raise ValueError(_no_labels(path, labels))
        size, image_size = labels.shape, tuple(results.get('ori_shape', labels.shape))
        if size != image_size:
            turned = ' (does the image have an EXIF mark that turns it?)' if size == image_size[::-1] else ''
            raise ValueError(
                f'{path} is {size[0]} x {size[-1]} pixels (height x width), its image {image_size[0]} x {image_size[1]}: '
                f'give both the same size{turned}'
            )
        seen = hash((path, zlib.crc32(reading.content)))
        if seen not in self._seen:
            self._check_values(path, labels, reduced, results.get('label_map') is not None)
            self._seen.add(seen)
        return results

    def _decode(self, reading: Reading, reduced: bool) -> np.ndarray:
        """The labels of a file before they are cut down to eight bits, (H, W)."""
        from PIL import Image

        with Image.open(io.BytesIO(reading.content)) as image:
            labels = np.asarray(image)
        if labels.ndim != 2:
            raise ValueError(_no_labels(reading.path, labels))
        self._refuse(reading.path, labels[(labels < 0) | (labels > 255)], reduced)
        return labels

    def _check_values(self, path: str, labels: np.ndarray, reduced: bool, mapped: bool) -> None:
        """Check labels as the loss sees them: classes from 0, and 255 for none."""
        labels = labels.astype(np.uint8, copy=False)
        if not reduced and labels.max(initial=0) < self.num_classes:
            return
        from_one = labels + np.uint8(1)  # 255 becomes 0
        highest = from_one.max(initial=0)
        if highest > self.num_classes:
            wrong = labels[from_one > self.num_classes]
            self._refuse(path, wrong.astype(int) + (reduced and not mapped), reduced)
        if mapped or (self.ignore_label or 0) % 256 == 255:  # as it is once cut down to eight bits
            return
        if not reduced and labels.max() == 255:
            warn_once(
                f'{path} has the label 255, which stands for no class: name it as ignore_label=255 of CheckLabels if that '
                'is meant. Other files may have it too; this is said only once',
                key='label 255',
            )
        elif reduced and highest == 0:
            warn_once(
                f'{path} has no class anywhere, all pixels are 0 or 255 and count as none. Other files may be like it; '
                'this is said only once',
                key='no class anywhere',
            )

    def _refuse(self, path: str, wrong: np.ndarray, reduced: bool) -> None:
        """Refuse labels of a file unless they are ``ignore_label``."""
        wrong = wrong[wrong != self.ignore_label]
        if wrong.size:
            last = self.num_classes - (not reduced)
            raise ValueError(
                f'{path} has the label {wrong[0]}, but labels go from 0 to {last} for {self.num_classes} classes'
                f'{" and 0 = other" if reduced else ""}: correct the file, the number of classes, or '
                'name a label for no class as ignore_label'
            )

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_classes={self.num_classes}, ignore_label={self.ignore_label})'


def _no_labels(path: str, decoded: np.ndarray) -> str:
    return f'{path} is no label image: it has {decoded.shape[2]} channels, a label image has one'
