"""Reading data files: what is wrong with them, what is decoded of them, and how often they are read and warned of."""

import io
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine import fileio
from mmengine.fileio import LocalBackend
from PIL import Image

from mmtwins.engine.reading import CheckedBackend, DataFileWarning, count_told, last_reading, read, warn_once

cv2 = pytest.importorskip('cv2')
mmcv = pytest.importorskip('mmcv')

CHECKED = dict(backend='checked')
PICTURE = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)
LABELS = np.random.RandomState(1).randint(0, 151, (48, 64), dtype=np.uint8)


def encode(kind: str, pixels: np.ndarray = PICTURE, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG, PNG = encode('JPEG'), encode('PNG')
FLIPPED = PNG[: len(PNG) // 2] + bytes([PNG[len(PNG) // 2] ^ 255]) + PNG[len(PNG) // 2 + 1 :]
EXIF = Image.Exif()
EXIF[0x112] = 6  # a quarter turn


@pytest.mark.parametrize(
    'content',
    [
        JPEG, JPEG + bytes(50), encode('JPEG', progressive=True), encode('JPEG', comment=JPEG), encode('JPEG', LABELS),
        PNG, PNG + b'more', encode('PNG', LABELS), encode('BMP'), encode('TIFF'), encode('PPM'), encode('WEBP'),
        cv2.imencode('.hdr', PICTURE.astype(np.float32))[1].tobytes(),  # not known to Pillow
    ],
)  # fmt: skip
def test_whole_files_are_handed_over_as_they_are(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(content)
    assert fileio.get(str(path), backend_args=CHECKED) == content
    reading = last_reading(str(path))
    assert (reading.path, reading.content, reading.fault) == (str(path), content, '')
    assert last_reading(path) is reading
    assert last_reading('another.jpg') is None


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (b'', 'is empty and cannot be decoded: copy or download it again'),
        (b'<html>not found</html>', 'is no image and cannot be decoded'),
        (bytes(5000), 'is no image and cannot be decoded'),
        (JPEG[:3], 'is truncated and cannot be decoded'),
        (JPEG[:200], 'is truncated and cannot be decoded'),  # the header is cut
        (b'\xff\xd8\xff\xe0nothing\xff\xd9', 'is truncated and cannot be decoded'),
        (PNG[:8], 'is truncated and cannot be decoded'),
        (PNG[:20], 'is truncated and cannot be decoded'),
        (PNG[: len(PNG) // 2], 'is truncated and cannot be decoded'),
        (FLIPPED, 'is damaged and cannot be decoded'),
    ],
)
@pytest.mark.parametrize('decoder', ['cv2', 'pillow'])
def test_files_that_do_not_decode_are_named_with_the_remedy(
    content: bytes, sentence: str, decoder: str, tmp_path: Path
) -> None:
    path = tmp_path / 'a.png'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'/a\.png {sentence}'):
        fileio.get(str(path), backend_args=dict(CHECKED, decoder=decoder))


@pytest.mark.parametrize('decoder', ['cv2', 'pillow'])
@pytest.mark.parametrize('options', [{}, dict(progressive=True), dict(comment=JPEG)], ids=str)
def test_a_jpeg_without_its_end_marker_decodes_in_full(options: dict, decoder: str, tmp_path: Path) -> None:
    content = encode('JPEG', **options)
    (tmp_path / 'a.jpg').write_bytes(content[:-2])
    reading = read(tmp_path / 'a.jpg', decoder)
    assert reading.fault == 'is truncated'
    expected = mmcv.imfrombytes(content, backend=decoder)
    np.testing.assert_array_equal(mmcv.imfrombytes(reading.content, backend=decoder), expected)


@pytest.mark.parametrize('decoder', ['cv2', 'pillow'])
def test_a_jpeg_cut_in_half_decodes_as_far_as_it_goes(decoder: str, tmp_path: Path) -> None:
    content = encode('JPEG', np.tile(PICTURE, (4, 4, 1)))
    (tmp_path / 'a.jpg').write_bytes(content[: len(content) // 2])
    reading = read(tmp_path / 'a.jpg', decoder)
    assert reading.fault == 'is truncated'
    expected, found = (mmcv.imfrombytes(content, backend=decoder) for content in (content, reading.content))
    assert found.shape == (192, 256, 3)
    np.testing.assert_array_equal(found[:64], expected[:64])
    np.testing.assert_array_equal(found[-64:], 128)


@pytest.mark.parametrize('decoder', ['cv2', 'pillow'])
def test_a_png_without_its_end_decodes_in_full(decoder: str, tmp_path: Path) -> None:
    content = encode('PNG', LABELS)
    (tmp_path / 'a.png').write_bytes(content[:-12])
    reading = read(tmp_path / 'a.png', decoder)
    assert (reading.content, reading.bits, reading.fault) == (content, 8, 'is truncated')
    np.testing.assert_array_equal(mmcv.imfrombytes(reading.content, flag='unchanged', backend=decoder), LABELS)


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize(
    'color_type', ['color', 'grayscale', 'unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation']
)
def test_images_are_equal_to_the_bit_to_those_that_mmcv_loads(color_type: str, backend: str, tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile

    rgba = np.concatenate([PICTURE, PICTURE[..., :1]], axis=2)
    files = dict(a=JPEG, b=encode('JPEG', LABELS), c=encode('JPEG', exif=EXIF), d=PNG, e=encode('PNG', rgba))
    files |= dict(f=encode('PNG', LABELS), g=encode('BMP'), h=encode('JPEG', progressive=True, quality=30))
    if backend == 'cv2':
        files |= dict(i=encode('PNG', LABELS.astype(np.uint16) * 300))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        for to_float32 in (False, True):
            settings = dict(color_type=color_type, imdecode_backend=backend, to_float32=to_float32)
            expected = LoadImageFromFile(**settings)(dict(img_path=str(tmp_path / name)))
            checked = dict(CHECKED, decoder=backend)
            found = LoadImageFromFile(**settings, backend_args=checked)(dict(img_path=str(tmp_path / name)))
            assert found.keys() == expected.keys()
            assert found['img_shape'] == expected['img_shape']
            assert found['img'].dtype == expected['img'].dtype
            np.testing.assert_array_equal(found['img'], expected['img'])


def test_a_file_is_read_once_and_through_the_backend_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter = Counter()
    get = LocalBackend.get
    monkeypatch.setattr(LocalBackend, 'get', lambda self, path: reads.update([str(path)]) or get(self, path))
    path = tmp_path / 'a.jpg'
    for content in (JPEG, JPEG[:-2]):
        reads.clear()
        path.write_bytes(content)
        fileio.get(str(path), backend_args=dict(CHECKED, backend_args=dict(backend='local')))
        assert reads == {str(path): 1}
    (tmp_path / 'a.txt').write_text('text')
    assert fileio.get_text(tmp_path / 'a.txt', backend_args=CHECKED) == 'text'
    with pytest.raises(FileNotFoundError, match='gone'):
        fileio.get(str(tmp_path / 'gone.jpg'), backend_args=CHECKED)
    with pytest.raises(ValueError, match="decoder='x' is unknown: take one of cv2, pillow"):
        CheckedBackend(decoder='x')


def test_a_fault_is_warned_of_once_and_counted(tmp_path: Path) -> None:
    before = count_told()
    with pytest.warns(DataFileWarning) as caught:
        for name in ('a', 'b', 'a', 'a', 'b'):
            warn_once(f'{tmp_path / name} is truncated')
        for name in ('c', 'd'):
            warn_once(f'{tmp_path / name} has it', key=f'{tmp_path} has it')
    assert [str(warning.message) for warning in caught] == [
        f'{tmp_path}/a is truncated ({before + 1} warned of so far)',
        f'{tmp_path}/b is truncated ({before + 2} warned of so far)',
        f'{tmp_path}/c has it ({before + 3} warned of so far)',
    ]
    assert count_told() == before + 3


WORKERS = """
import sys
import warnings
from torch.utils.data import DataLoader, Dataset
from mmengine import fileio
from mmtwins.engine.reading import count_told, last_reading
from mmtwins.engine.transforms import CheckImage

class Files(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        path = sys.argv[1 + index % 3]
        fileio.get(path, backend_args=dict(backend='checked'))
        CheckImage()(dict(img_path=path))
        return index

if __name__ == '__main__':
    for persistent in (False, True) if sys.argv[4] == 'fork' else (True,):
        loader = DataLoader(
            Files(), num_workers=2, persistent_workers=persistent, multiprocessing_context=sys.argv[4]
        )
        for epoch in range(2):
            assert len(list(loader)) == 12
    print('told', count_told())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='workers are forked on Linux')
@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_all_workers_of_all_epochs_warn_once_of_a_file(method: str, tmp_path: Path) -> None:
    for name, content in dict(a=JPEG[:-2], b=JPEG[:-100], whole=JPEG).items():
        (tmp_path / f'{name}.jpg').write_bytes(content)
    (tmp_path / 'load.py').write_text(WORKERS)
    paths = [str(tmp_path / f'{name}.jpg') for name in ('a', 'b', 'whole')]
    command = [sys.executable, str(tmp_path / 'load.py'), *paths, method]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    told = Counter(line.split('.jpg is truncated')[0][-1] for line in result.stderr.splitlines() if 'truncated' in line)
    if method == 'fork':
        assert told == dict(a=1, b=1), result.stderr
        assert result.stdout == 'told 2\n'
    else:  # each of the two workers warns by itself
        assert told == dict(a=2, b=2), result.stderr
        assert result.stdout == 'told 0\n'


def test_reading_with_checks_costs_little_beside_decoding(tmp_path: Path) -> None:
    content, path = encode('JPEG', cv2.resize(PICTURE, (640, 480))), str(tmp_path / 'a.jpg')
    (tmp_path / 'a.jpg').write_bytes(content)

    def seconds(call: Callable) -> float:
        """Processor time of twenty calls, the least of five rounds."""
        rounds = []
        for _ in range(5):
            start = time.process_time()
            for _ in range(20):
                call()
            rounds.append(time.process_time() - start)
        return min(rounds)

    plain, checked = (seconds(lambda args=args: fileio.get(path, backend_args=args)) for args in (None, CHECKED))
    assert checked - plain < 0.03 * seconds(lambda: mmcv.imfrombytes(content)), (plain, checked)
