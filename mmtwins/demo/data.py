"""Two small generated data sets in the formats of ADE20K and COCO, drawn from the same scenes.

The JPEG files depend on the encoder that OpenCV was built with, all other files on the seed alone.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api

from ..engine.arguments import image_size
from ..masks import encode_mask
from .scenes import SPLITS, THINGS, draw_scene

VERSION = 1  # raise it when a seed draws something else, so that generate_toy_data draws anew
MANIFEST = 'manifest.json'


def _polygons(mask: np.ndarray) -> list[list[float]] | None:
    """Trace a mask (H, W) along the borders of its pixels.

    Returns:
        One polygon ``[x, y, x, y, ...]`` per connected part; None where polygons cannot say it exactly (holes, parts that
        touch at a corner).
    """
    inside = np.pad(mask, 1)
    steps = {}  # corner -> next corner, with the mask on the right-hand side
    for dy, dx, start, end in (
        (-1, 0, (0, 0), (0, 1)),
        (0, 1, (0, 1), (1, 1)),
        (1, 0, (1, 1), (1, 0)),
        (0, -1, (1, 0), (0, 0)),
    ):
        border = mask & ~inside[1 + dy : inside.shape[0] - 1 + dy, 1 + dx : inside.shape[1] - 1 + dx]
        for y, x in np.argwhere(border).tolist():
            corner = (y + start[0], x + start[1])
            if corner in steps:
                return None
            steps[corner] = (y + end[0], x + end[1])
    polygons = []
    while steps:
        first = corner = next(iter(steps))
        path = []
        while corner in steps:
            path.append(corner)
            corner = steps.pop(corner)
        assert corner == first, f'open border at {corner}'
        path = [
            b
            for a, b, c in zip(path[-1:] + path, path, path[1:] + path[:1])
            if (b[0] - a[0], b[1] - a[1]) != (c[0] - b[0], c[1] - b[1])
        ]
        area = sum(a[1] * b[0] - b[1] * a[0] for a, b in zip(path, path[1:] + path[:1])) / 2
        if area < 0:
            return None
        polygons.append([float(value) for y, x in path for value in (x, y)])
    return polygons


def _annotation(mask: np.ndarray, thing: int, number: int, image_id: int) -> dict:
    """COCO's entry for one instance: a polygon per part where that is exact, run lengths otherwise."""
    code = encode_mask(mask)
    return dict(
        id=number,
        image_id=image_id,
        category_id=thing + 1,
        iscrowd=0,
        area=int(mask_api.area(code)),
        bbox=mask_api.toBbox(code).tolist(),
        segmentation=_polygons(mask) or code,
    )


def _write_split(root: Path, seed: int, split: str, count: int, size: int, tick: Callable[[], None]) -> None:
    """Write one split of both datasets."""
    images: list[dict] = []
    annotations: list[dict] = []
    folders = [
        root / 'ade/images' / SPLITS[split],
        root / 'ade/annotations' / SPLITS[split],
        root / 'coco' / f'{split}2017',
        root / 'coco/annotations',
    ]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(seed, split, index, size)
        image_id = index + 1
        encoded, jpeg = cv2.imencode('.jpg', scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        assert encoded
        stem = f'ADE_{split}_{image_id:08d}'
        (folders[0] / f'{stem}.jpg').write_bytes(jpeg.tobytes())
        (folders[1] / f'{stem}.png').write_bytes(cv2.imencode('.png', scene.labels)[1].tobytes())
        (folders[2] / f'{image_id:012d}.jpg').write_bytes(jpeg.tobytes())
        images.append(dict(id=image_id, file_name=f'{image_id:012d}.jpg', height=size, width=size))
        for thing, mask in scene.instances:
            annotations.append(_annotation(mask, thing, len(annotations) + 1, image_id))
        tick()
    categories = [dict(id=i + 1, name=thing.name, supercategory='toy') for i, thing in enumerate(THINGS)]
    info = dict(description='mmtwins toy scenes', version=str(VERSION))
    content = dict(info=info, licenses=[], images=images, annotations=annotations, categories=categories)
    (folders[3] / f'instances_{split}2017.json').write_text(json.dumps(content))


def generate_toy_data(
    root: str | Path,
    seed: int = 0,
    num_train: int = 1000,
    num_val: int = 150,
    size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the toy scenes as ``root/ade`` (ADE20K's layout) and ``root/coco`` (COCO's layout).

    What an earlier call with the same arguments wrote is kept; with other arguments it is replaced. The files appear under
    ``root`` all at once, when the last of them is complete, so an interrupted call leaves nothing that looks finished.

    Args:
        root: Folder to write.
        seed: From 0 to 2**32 - 1; the same seed gives the same files.
        num_train: Scenes in ade/images/training and coco/train2017.
        num_val: Scenes in ade/images/validation and coco/val2017; no scene is in both.
        size: Side of every image, in pixels.
        progress: Called with (scenes written, scenes in all).

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: An argument is out of range, or ``root`` holds something that this function did not write.
    """
    root = Path(root)
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed={seed}: must be from 0 to 2**32 - 1')
    if num_train < 1 or num_val < 1:
        raise ValueError(f'num_train={num_train}, num_val={num_val}: both must be at least 1')
    if not 64 <= size <= 1024:
        raise ValueError(f'size={size}: must be from 64 to 1024 pixels')
    manifest = dict(version=VERSION, seed=seed, num_train=num_train, num_val=num_val, size=size)
    if (root / MANIFEST).is_file() and json.loads((root / MANIFEST).read_text()) == manifest:
        return root
    foreign = {entry.name for entry in root.iterdir()} - {'ade', 'coco', MANIFEST} if root.is_dir() else root.exists()
    if foreign or (root.is_dir() and any(root.iterdir()) and not (root / MANIFEST).is_file()):
        raise ValueError(f'{root} exists and holds other things than toy data: name a new folder, or move it away')

    root.parent.mkdir(parents=True, exist_ok=True)
    partial, replaced = (root.with_name(f'.{root.name}.{word}') for word in ('partial', 'replaced'))
    shutil.rmtree(partial, ignore_errors=True)
    done, total = 0, num_train + num_val

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    _write_split(partial, seed, 'train', num_train, size, tick)
    _write_split(partial, seed, 'val', num_val, size, tick)
    (partial / MANIFEST).write_text(json.dumps(manifest))
    shutil.rmtree(replaced, ignore_errors=True)
    if root.exists():
        os.replace(root, replaced)
    os.replace(partial, root)
    shutil.rmtree(replaced, ignore_errors=True)
    return root


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmtwins.demo.data OUT --seed 0``: write the datasets, with a progress line."""
    parser = argparse.ArgumentParser(prog='python -m mmtwins.demo.data', description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder to write; its ade/ and coco/ are the data roots of configs/toy')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--num-train', type=int, default=1000, help='scenes for training (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=150, help='held-out scenes (default: %(default)s)')
    parser.add_argument(
        '--size',
        type=image_size,
        default='128',
        metavar='SIDE',
        help='side of an image in pixels (default: %(default)s)',
    )
    args = parser.parse_args(arguments)
    height, width = args.size
    if height != width:
        parser.error(f'--size {height}x{width}: the scenes are squares, give one side')

    def show(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            print(f'\r{done} of {total} scenes', end='\n' if done == total else '', flush=True)

    try:
        root = generate_toy_data(args.out, args.seed, args.num_train, args.num_val, height, progress=show)
    except (ValueError, OSError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
    except KeyboardInterrupt:
        parser.exit(130, '\nstopped; nothing was written\n')
    print(f'{root / "ade"}\n{root / "coco"}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
