"""Predictions on disk, in the formats of ADE20K (label PNG) and COCO (results JSON), with overlays."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from PIL import Image

from ..datasets.category_ids import category_ids
from ..datasets.dataset_info import DatasetInfo
from ..masks import encode_mask
from .result import Result
from .sources import is_video
from .videos import NOTE, VideoWriter, has_h264

# Of COCO's 91 categories these have no annotations, and so are none of the 80 classes.
COCO_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


class ResultWriter:
    """Write results one by one; as a context manager it writes the JSON files at its end, after an interrupt too.

    ======================  ======================================================================================
    ``overlays/NAME.png``   the prediction over the image
    ``overlays/NAME.mp4``   of a video, at its own rate, in H.264 where PyAV is installed
    ``labels/NAME.png``     segmentation: in ADE20K's annotation format, one channel; of a video one per frame,
                            ``labels/NAME/000001.png``
    ``classes.json``        segmentation: what the values in the label PNG mean
    ``coco_results.json``   detection: COCO's results format
    ``coco_images.json``    detection: the images and categories that the results refer to, as a COCO annotation file
    ======================  ======================================================================================

    NAME is the path of the image from the folder that all inputs share, without suffix; with it for images that would
    have the same name. In label images of a data set that has ``reduce_zero_label``, as ADE20K, 0 is other objects and class
    i has the value i + 1; of any other data set class i has the value i. More than 255 classes make 16-bit files.

    Args:
        out: Folder to write; what is there already is kept, unless it has the same name.
        sources: All files that will be predicted on.
        info: Classes of the model.
        is_detector: Whether the results are instances.
        root: Folder that NAME begins from; None takes the innermost one that holds all files.

    Raises:
        ValueError: A result would replace an input.
    """

    def __init__(
        self, out: str | Path, sources: Sequence[str], info: DatasetInfo, is_detector: bool, root: str | None = None
    ) -> None:
        self.out, self.info, self.is_detector = Path(out), info, is_detector
        self.names = name_results(sources, root)
        targets = {
            os.path.realpath(self.out / folder / (name + ('.mp4' if is_video(path) else '.png')))
            for path, name in self.names.items()
            for folder in ('overlays', 'labels')
        }
        for path in sources:
            if os.path.realpath(path) in targets:
                raise ValueError(f'{path} would be overwritten by its result: name another folder than {out}')
        annotations = _read_annotations(info)
        entries = _entries_of(sources, annotations.get('images', ()))
        self._file_names = (
            {path: entry['file_name'] for path, entry in entries.items()} if entries else _relative(sources, root)
        )
        self._image_id = _image_ids(sources, entries)
        self._category_ids, note = _category_ids(info, annotations) if is_detector else ([], '')
        self.notes = [one for one in (note, NOTE if any(map(is_video, sources)) and not has_h264() else '') if one]
        self._video: VideoWriter | None = None
        self._video_path: str | None = None
        self._images: list[dict] = []
        self._found: list[dict] = []

    def __enter__(self) -> 'ResultWriter':
        self.out.mkdir(parents=True, exist_ok=True)
        if not self.is_detector:
            first = int(self.info.reduce_zero_label)
            values = {first + i: name for i, name in enumerate(self.info.classes)}
            _dump({'values': {0: 'other', **values} if first else values}, self.out / 'classes.json')
        return self

    def __exit__(self, *exception: Any) -> None:
        self._close_video()
        if self.is_detector:
            categories = [dict(id=i, name=name) for i, name in zip(self._category_ids, self.info.classes)]
            content = dict(info={}, licenses=[], images=self._images, annotations=[], categories=categories)
            _dump(content, self.out / 'coco_images.json')
            _dump(self._found, self.out / 'coco_results.json')

    def add(self, result: Result) -> None:
        """Write what belongs to one image or frame."""
        name = self.names[_file_of(result)]
        if result.frame is None:
            self._close_video()
            _save_png(result.overlay(), self.out / 'overlays' / f'{name}.png')
        else:
            self._add_frame(result, name)
        frame_name = name if result.frame is None else f'{name}/{result.frame:06d}'
        if self.is_detector:
            self._add_instances(result, frame_name)
        else:
            first, last = int(self.info.reduce_zero_label), len(self.info.classes)
            kind = np.uint8 if last < 256 else np.uint16
            _save_png((result.labels + first).astype(kind), self.out / 'labels' / f'{frame_name}.png')

    def _add_instances(self, result: Result, frame_name: str) -> None:
        image_id = self._image_id(result)
        height, width = result.image.shape[:2]
        file_name = self._file_names[_file_of(result)] if result.frame is None else frame_name
        self._images.append(dict(id=image_id, file_name=file_name, height=height, width=width))
        from pycocotools.mask import toBbox

        codes = [None] * len(result.labels) if result.masks is None else [encode_mask(mask) for mask in result.masks]
        for label, score, box, code in zip(result.labels, result.scores, result.boxes.tolist(), codes):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            if code and not any(box):  # a model of masks only
                bbox = toBbox(code).tolist()
            found = dict(image_id=image_id, category_id=self._category_ids[label], bbox=bbox, score=float(score))
            self._found.append({**found, 'segmentation': code} if code else found)

    def _add_frame(self, result: Result, name: str) -> None:
        picture = result.overlay(fixed_legend=True)
        if self._video_path != result.path:
            self._close_video()
            with mmcv.VideoReader(result.path) as source:
                rate = source.fps
            path = self.out / 'overlays' / f'{name}.mp4'
            self._video = VideoWriter(path, rate if rate > 0 else 25, *picture.shape[:2])
            self._video_path = result.path
        assert self._video is not None
        self._video.add(picture)

    def _close_video(self) -> None:
        video, self._video, self._video_path = self._video, None, None
        if video is not None:
            video.close()


def _file_of(result: Result) -> str:
    assert result.path is not None  # arrays have no place in a folder
    return result.path


def name_results(sources: Sequence[str], root: str | None = None) -> dict[str, str]:
    """Give each file the name of its results, see :class:`ResultWriter`.

    Args:
        sources: Files, relative or absolute.
        root: Folder that the names begin from; None takes the innermost one that holds all files.

    Returns:
        File: name, in POSIX form; different for different images.
    """
    whole = _relative(sources, root)
    short = {path: Path(name).with_suffix('').as_posix() for path, name in whole.items()}
    groups: dict[str, list[str]] = {}
    for path in dict.fromkeys(sources):
        groups.setdefault(short[path], []).append(path)
    for group in groups.values():
        images = [path for path in group if _is_image_or_video(path)] if len(group) > 1 else []
        if len(images) > 1:  # files of another kind beside an image, such as its description, do not count
            short.update({path: whole[path] for path in images})
    used = [short[path] for path in short if len(groups.get(short[path], ())) < 2 or _is_image_or_video(path)]
    return short if len(set(used)) == len(used) else whole


def _is_image_or_video(path: str) -> bool:
    return is_video(path) or (os.path.isfile(path) and cv2.haveImageReader(path))


def _relative(sources: Sequence[str], root: str | None) -> dict[str, str]:
    """Each file from the folder that all share, in POSIX form."""
    root = root or os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in sources])
    return {path: Path(os.path.relpath(path, root)).as_posix() for path in sources}


def _entries_of(sources: Sequence[str], images: Sequence[dict]) -> dict[str, dict]:
    """The entry of an annotation file for each image; none at all unless each file has one of its own.

    An entry belongs to a file if the file's path ends with the entry's: the longest such entry counts.
    """
    by_name: dict[str, dict] = {Path(image['file_name']).as_posix(): image for image in images}
    entries: dict[str, dict] = {}
    for path in sources:
        parts = Path(os.path.abspath(path)).parts
        tails = ('/'.join(parts[start:]) for start in range(1, len(parts)))
        entry = next((by_name[tail] for tail in tails if tail in by_name), None)
        if entry is None:
            return {}
        entries[path] = entry
    return entries if len({entry['id'] for entry in entries.values()}) == len(entries) else {}


def _image_ids(sources: Sequence[str], entries: dict[str, dict]) -> Callable[[Result], int]:
    """A function that gives a result its COCO id: the data set's, else the number in the file name, else 1, 2, ..."""
    if entries:
        return lambda result: entries[_file_of(result)]['id']
    stems = [Path(path).stem for path in sources]
    numeric = all(stem.isascii() and stem.isdigit() for stem in stems) and len(set(map(int, stems))) == len(stems)
    if numeric and not any(map(is_video, sources)):
        return lambda result: int(Path(_file_of(result)).stem)
    numbers: dict[tuple, int] = {}
    return lambda result: numbers.setdefault((result.path, result.frame), len(numbers) + 1)


def _category_ids(info: DatasetInfo, annotations: dict) -> tuple[list[int], str]:
    """COCO's category id of each class, and a note where the data set's annotation file does not say."""
    with suppress(ValueError):  # other classes
        return category_ids(annotations.get('categories', ()), info.classes, str(info.annotation_file)), ''
    from mmdet.datasets import CocoDataset

    if info.classes == tuple(CocoDataset.METAINFO['classes']):
        return [i for i in range(1, 91) if i not in COCO_UNUSED], ''
    where = (
        f'{info.annotation_file} is not there or has other classes' if info.annotation_file else 'no annotation file'
    )
    return list(
        range(1, len(info.classes) + 1)
    ), f'category ids are 1 to {len(info.classes)}, in the order of the classes: {where}'


def _read_annotations(info: DatasetInfo) -> dict:
    """The data set's annotation file; empty if there is none or it is not one of COCO's."""
    try:
        content = json.loads(info.annotation_file.read_text()) if info.annotation_file else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _save_png(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def _dump(content: Any, path: Path) -> None:
    path.write_text(json.dumps(content))
