"""The maps as files, in MMSegmentation's layout."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2

from .maps import SPLITS, draw_map

VERSION = 1  # raise it when a seed draws something else
MANIFEST = 'manifest.json'


def generate_maps(
    root: str | Path,
    seed: int = 0,
    num_train: int = 2400,
    num_val: int = 100,
    size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write maps as ``root/images`` and ``root/annotations``, with the folders ``training`` and ``validation`` in each.

    What an earlier call with the same arguments wrote is kept; with other arguments it is replaced. The files appear under
    ``root`` all at once, when the last of them is complete.

    Args:
        root: Folder to write.
        seed: From 0 to 2**32 - 1; the same seed gives the same images.
        num_train: Maps for training.
        num_val: Maps for validation; no map is in both.
        size: Side of every image, in pixels.
        progress: Called with (maps written, maps in all).

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
    if root.exists() and not (root / MANIFEST).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f'{root} exists and holds other things than maps: name a new folder, or move it away')
    partial = root.with_name(f'.{root.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    done, total = 0, num_train + num_val
    for split, count in dict(train=num_train, val=num_val).items():
        images, annotations = (partial / kind / SPLITS[split] for kind in ('images', 'annotations'))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for index in range(count):
            drawn = draw_map(seed, split, index, size)
            for folder, pixels in ((images, drawn.image[..., ::-1]), (annotations, drawn.labels)):
                (folder / f'{index:05d}.png').write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
            done += 1
            if progress:
                progress(done, total)
    (partial / MANIFEST).write_text(json.dumps(manifest))
    if root.exists():
        shutil.rmtree(root)
    os.replace(partial, root)
    return root


def main(arguments: list[str] | None = None) -> int:
    """``python -m mmtwins.study.map_files OUT``: write the maps of the study; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m mmtwins.study.map_files', description=__doc__)
    parser.add_argument('out', type=Path, help="folder to write, the data root of the maps' config in configs/toy")
    parser.add_argument('--seed', type=int, default=0, help='seed of the maps (default: %(default)s)')
    args = parser.parse_args(arguments)
    try:
        print(generate_maps(args.out, args.seed))
    except (ValueError, OSError) as error:
        parser.exit(2, f'{parser.prog}: {error}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
