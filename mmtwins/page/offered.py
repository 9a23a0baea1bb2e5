"""Example images of the page: those of a folder, or generated scenes."""

import shutil
from pathlib import Path

import cv2
from PIL import Image

from ..demo.scenes import CLASSES, THING_CLASSES, draw_scene
from ..inference.sources import find_sources, is_video

MAX_EXAMPLES = 8
SCENES = (3, 9, 1, 4)  # of the validation split, from easy to hard


def gather_examples(folder: str | Path | None, classes: tuple[str, ...], out: Path) -> list[Path]:
    """Copy or generate the example images.

    Args:
        folder: Folder whose first images, by name, are copied. None generates scenes, for models of the demo at its size.
        classes: Classes of the model.
        out: Folder to write into.

    Returns:
        Files of the examples, in ``out``.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    if folder is None:
        size = 128 if set(classes) <= {*CLASSES, *THING_CLASSES} else 512
        return [_draw(index, size, out) for index in SCENES]
    if not Path(folder).expanduser().is_dir():
        raise FileNotFoundError(f'--examples {folder}: there is no such folder')
    found: list[Path] = []
    for source in find_sources(folder):
        if isinstance(source, str) and not is_video(source) and _is_image(source):
            place = out / f'example-{len(found) + 1}'
            place.mkdir(parents=True)
            found.append(Path(shutil.copy(source, place)))
        if len(found) == MAX_EXAMPLES:
            break
    if not found:
        raise FileNotFoundError(f'--examples {folder}: the folder holds no image')
    return found


def _draw(index: int, size: int, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'scene-{index}.png'
    cv2.imwrite(str(path), draw_scene(0, 'val', index, size).image[..., ::-1])
    return path


def _is_image(path: str) -> bool:
    try:
        with Image.open(path) as image:
            return min(image.size) > 0
    except Exception:  # a damaged file fails anywhere in a decoder
        return False
