"""Seeded mutations of image files and label images: other kinds of files, other formats, other values, damaged bytes.

Each gets the path of a file and replaces it. It returns what a person would call the result: ``'wrong'``, ``'fine'`` or
``'any'``.
"""

import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Mutation = Callable[[Path, random.Random], str]
FILE_MUTATIONS: dict[str, Mutation] = {}
IMAGE_MUTATIONS: dict[str, Mutation] = {}
LABEL_MUTATIONS: dict[str, Mutation] = {}


def mutation(*tables: dict[str, Mutation]) -> Callable[[Mutation], Mutation]:
    def register(function: Mutation) -> Mutation:
        for table in tables:
            table[function.__name__] = function
        return function

    return register


def _save(path: Path, image: Image.Image, kind: str, **options: object) -> None:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    path.write_bytes(buffer.getvalue())


@mutation(FILE_MUTATIONS)
def gone(path: Path, rng: random.Random) -> str:
    path.unlink()
    return 'wrong'


@mutation(FILE_MUTATIONS)
def pipe(path: Path, rng: random.Random) -> str:
    path.unlink()
    os.mkfifo(path)
    return 'wrong'


@mutation(FILE_MUTATIONS)
def folder(path: Path, rng: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return 'wrong'


@mutation(FILE_MUTATIONS)
def link(path: Path, rng: random.Random) -> str:
    path.unlink()
    path.symlink_to(rng.choice([path.name, 'nothing', '/dev/zero', '/dev/null']))
    return 'wrong'


@mutation(FILE_MUTATIONS)
def empty(path: Path, rng: random.Random) -> str:
    path.write_bytes(b'')
    return 'wrong'


@mutation(FILE_MUTATIONS)
def text(path: Path, rng: random.Random) -> str:
    path.write_text(
        rng.choice(['hello', '<html>404</html>', 'version https://git-lfs.github.com/spec/v1\noid sha256:0'])
    )
    return 'wrong'


@mutation(FILE_MUTATIONS)
def noise(path: Path, rng: random.Random) -> str:
    path.write_bytes(rng.randbytes(500))
    return 'wrong'


@mutation(FILE_MUTATIONS)
def header_only(path: Path, rng: random.Random) -> str:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, 60)])
    return 'wrong'


@mutation(FILE_MUTATIONS)
def cut_off(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * rng.uniform(0.4, 0.95))])
    return 'wrong'


@mutation(FILE_MUTATIONS)
def bytes_changed(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 30])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    return 'any'


@mutation(FILE_MUTATIONS)
def zeros(path: Path, rng: random.Random) -> str:
    path.write_bytes(bytes(path.stat().st_size))
    return 'wrong'


@mutation(FILE_MUTATIONS)
def huge_on_paper(path: Path, rng: random.Random) -> str:
    """A PNG file of a few bytes whose header claims a size that nobody can hold in memory."""
    buffer = io.BytesIO()
    Image.new('L', (8, 8)).save(buffer, 'PNG')
    data = bytearray(buffer.getvalue())
    data[16:24] = (2**31 - 1).to_bytes(4, 'big') * 2
    path.write_bytes(data)
    return 'wrong'


@mutation(IMAGE_MUTATIONS)
def other_size(path: Path, rng: random.Random) -> str:
    image = Image.open(path)
    image.load()
    width, height = image.size
    size = rng.choice([(1, 1), (width // 2, height // 2), (height + 1, width), (width, height - 1), (2000, 1500)])
    _save(path, image.resize(size), 'JPEG')
    return 'wrong'


@mutation(IMAGE_MUTATIONS)
def turned_by_exif(path: Path, rng: random.Random) -> str:
    image = Image.open(path)
    image.load()
    exif = Image.Exif()
    exif[0x0112] = rng.choice([1, 3, 6, 8, 0, 99])
    _save(path, image, 'JPEG', exif=exif.tobytes())
    return 'wrong' if exif[0x0112] in (6, 8) and image.width != image.height else 'any'


@mutation(IMAGE_MUTATIONS)
def other_format(path: Path, rng: random.Random) -> str:
    image = Image.open(path)
    image.load()
    kind, mode = rng.choice(
        [('PNG', 'RGB'), ('PNG', 'L'), ('PNG', 'RGBA'), ('PNG', 'P'), ('JPEG', 'L'), ('JPEG', 'CMYK'), ('BMP', 'RGB')]
    )  # fmt: skip
    _save(path, image.convert(mode), kind)
    return 'fine'


@mutation(IMAGE_MUTATIONS)
def rare_format(path: Path, rng: random.Random) -> str:
    image = Image.open(path)
    image.load()
    kind = rng.choice(['GIF', 'TIFF', 'PPM', 'ICO', 'PDF', 'JPEG2000'])
    _save(path, image, kind)
    return 'any'


@mutation(IMAGE_MUTATIONS)
def sixteen_bits(path: Path, rng: random.Random) -> str:
    grey = np.asarray(Image.open(path).convert('L')).astype(np.uint16) * 200
    _save(path, Image.fromarray(grey), 'PNG')
    return 'fine'


def _labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _change_all(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for one in sorted(path.parent.glob('*.png')):
        _save(one, Image.fromarray(change(_labels(one))), 'PNG')


@mutation(LABEL_MUTATIONS)
def labels_too_large(path: Path, rng: random.Random) -> str:
    _change_all(path, lambda labels: labels + 1)
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def labels_too_small(path: Path, rng: random.Random) -> str:
    _change_all(path, lambda labels: np.maximum(labels, 1) - 1)
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def all_ignored(path: Path, rng: random.Random) -> str:
    value = rng.choice([0, 255])
    _change_all(path, lambda labels: np.full_like(labels, value))
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def one_class(path: Path, rng: random.Random) -> str:
    value = rng.choice([1, 3])
    _change_all(path, lambda labels: np.full_like(labels, value))
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def masks_of_0_and_255(path: Path, rng: random.Random) -> str:
    _change_all(path, lambda labels: np.where(labels > 1, 255, rng.choice([0, 1])).astype(np.uint8))
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def one_odd_value(path: Path, rng: random.Random) -> str:
    labels = _labels(path).copy()
    labels[5, 5] = rng.choice([5, 6, 100, 254, 255])
    _save(path, Image.fromarray(labels), 'PNG')
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def one_ignored(path: Path, rng: random.Random) -> str:
    _save(path, Image.fromarray(np.zeros_like(_labels(path))), 'PNG')
    return 'fine'


@mutation(LABEL_MUTATIONS)
def wide_values(path: Path, rng: random.Random) -> str:
    labels = _labels(path).astype(np.uint16)
    labels[5, 5] = rng.choice([256, 257, 1000, 65535])
    _save(path, Image.fromarray(labels), 'PNG')
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def sixteen_bits_for_nothing(path: Path, rng: random.Random) -> str:
    _save(path, Image.fromarray(_labels(path).astype(np.uint16)), 'PNG')
    return 'fine'


@mutation(LABEL_MUTATIONS)
def colours(path: Path, rng: random.Random) -> str:
    image = Image.fromarray(_labels(path))
    _save(path, image.convert(rng.choice(['RGB', 'RGBA', 'LA'])), 'PNG')
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def palette_image(path: Path, rng: random.Random) -> str:
    image = Image.fromarray(_labels(path)).convert('L')
    indexed = Image.new('P', image.size)
    indexed.putdata(list(image.getdata()))
    indexed.putpalette([rng.randrange(256) for _ in range(768)])
    _save(path, indexed, 'PNG')
    return 'fine'


@mutation(LABEL_MUTATIONS)
def decimal_numbers(path: Path, rng: random.Random) -> str:
    _save(path, Image.fromarray(_labels(path).astype(np.float32)), 'TIFF')
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def one_bit(path: Path, rng: random.Random) -> str:
    _save(path, Image.fromarray(_labels(path) > 1), 'PNG')
    return 'any'


@mutation(LABEL_MUTATIONS)
def lossy(path: Path, rng: random.Random) -> str:
    _save(path, Image.fromarray(_labels(path) * 40), 'JPEG', quality=60)
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def other_size_of_labels(path: Path, rng: random.Random) -> str:
    image = Image.open(path)
    image.load()
    width, height = image.size
    size = rng.choice([(width - 1, height), (width * 2, height * 2), (height + 1, width)])
    _save(path, image.resize(size, Image.Resampling.NEAREST), 'PNG')
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def all_gone(path: Path, rng: random.Random) -> str:
    shutil.rmtree(path.parent)
    if rng.random() < 0.5:
        path.parent.mkdir()
    return 'wrong'


@mutation(LABEL_MUTATIONS)
def other_suffix(path: Path, rng: random.Random) -> str:
    for one in sorted(path.parent.glob('*.png')):
        one.rename(one.with_suffix('.PNG'))
    return 'wrong'
