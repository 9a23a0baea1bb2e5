"""Image files: what they hold as the pipeline sees it, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmtwins.datasets.damage import find_damage
from mmtwins.datasets.findings import Finding, Findings
from mmtwins.datasets.images import Decoder, ImageFact, check_images, inspect_image
from mmtwins.datasets.passes import Pass

pytest.importorskip('mmcv')
PICTURE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 3), dtype=np.uint8))


def save(path: Path, orientation: int = 1, mode: str = 'RGB', **options: object) -> str:
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.convert(mode).save(path, exif=exif, **options)
    return str(path)


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
def test_size_and_channels(whole: bool, mode: str, tmp_path: Path) -> None:
    fact = inspect_image(save(tmp_path / 'a.jpg', mode=mode), Decoder(), whole)
    assert fact == ImageFact((20, 30), 1, 3 if whole else 0)


@pytest.mark.parametrize('whole', [False, True])
def test_exif_turns_the_image_unless_the_pipeline_does_not(whole: bool, tmp_path: Path) -> None:
    path = save(tmp_path / 'a.jpg', orientation=6)
    assert inspect_image(path, Decoder(), whole).size == (30, 20)
    assert inspect_image(path, Decoder(flag='color_ignore_orientation'), whole).size == (20, 30)
    assert inspect_image(path, Decoder(), whole).orientation == 6


def test_decoder_of_a_pipeline() -> None:
    assert Decoder.of({}) == Decoder('cv2', 'color')
    step = dict(type='LoadImageFromFile', imdecode_backend='pillow', color_type='unchanged')
    assert Decoder.of({'LoadImageFromFile': step}) == Decoder('pillow', 'unchanged')


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize(
    ('content', 'problem'),
    [(b'hello', 'cannot be decoded (cv2 cannot decode it)'), (b'', 'is empty'), (b'\xff\xd8\xff', 'cannot be decoded')],
)
def test_what_is_no_image(content: bytes, problem: str, whole: bool, tmp_path: Path) -> None:
    (tmp_path / 'a.jpg').write_bytes(content)
    fact = inspect_image(str(tmp_path / 'a.jpg'), Decoder(), whole)
    assert fact.problem.startswith(problem) and fact.size == (0, 0)


def test_a_pipeline_of_ours_reads_what_is_there_of_a_file(tmp_path: Path) -> None:
    path = Path(save(tmp_path / 'a.jpg'))
    path.write_bytes(path.read_bytes()[:-30])
    steps = {'LoadImageFromFile': dict(type='LoadImageFromFile', backend_args=dict(backend='checked'))}
    fact = inspect_image(str(path), Decoder.of(steps), False)
    assert fact == ImageFact((20, 30), 1, 3, '', is_damaged=True)
    path.write_bytes(path.read_bytes()[:100])
    assert inspect_image(str(path), Decoder.of(steps), False).problem.endswith('is truncated and cannot be decoded)')


def check(folder: Path, sizes: list[tuple[int, int]], fast: bool = False) -> list[Finding]:
    findings, options = Findings(), Pass(fast=fast)
    paths = [str(folder / f'{i}.jpg') for i in range(len(sizes))]
    check_images(paths, sizes, Decoder(), 'a.json', findings, options)
    return findings.finish()


@pytest.fixture
def forgiving_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 4, which decodes images that are cut off; OpenCV 5 does not."""
    decode = Decoder.decode

    def forgive(self: Decoder, content: bytes) -> np.ndarray:
        return (
            np.zeros((20, 30, 3), np.uint8)
            if find_damage(content) == 'is truncated' and len(content) > 100
            else decode(self, content)
        )

    monkeypatch.setattr(Decoder, 'decode', forgive)


@pytest.mark.usefixtures('forgiving_decoder')
@pytest.mark.parametrize('fast', [False, True])
def test_faults_are_named_with_their_files(fast: bool, tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / f'{i}.jpg', orientation=6 if i == 3 else 1)
    content = (tmp_path / '5.jpg').read_bytes()
    (tmp_path / '5.jpg').write_bytes(content[:-40])
    (tmp_path / '6.jpg').write_bytes(b'text')
    (tmp_path / '7.jpg').unlink()
    sizes = [(20, 30)] * 12
    sizes[8] = (10, 30)
    found = {one.code: one for one in check(tmp_path, sizes, fast)}
    assert set(found) == {'missing-file', 'image-unreadable', 'image-size', 'image-cut-off', 'image-turned'}
    assert found['missing-file'].cases == (f'{tmp_path}/7.jpg does not exist',)
    assert found['image-unreadable'].cases == (f'{tmp_path}/6.jpg cannot be decoded (cv2 cannot decode it)',)
    assert found['image-size'].cases == (
        f'{tmp_path}/3.jpg: 20 x 30, not 30 x 20',
        f'{tmp_path}/8.jpg: 30 x 20, not 30 x 10',
    )
    assert '1 of them because their EXIF orientation turns them' in found['image-size'].text
    assert found['image-cut-off'].cases == (f'{tmp_path}/5.jpg',) and not found['image-cut-off'].is_error
    assert not found['image-turned'].is_error


@pytest.mark.usefixtures('forgiving_decoder')
def test_many_cut_off_files_are_an_error(tmp_path: Path) -> None:
    for i in range(4):
        path = Path(save(tmp_path / f'{i}.jpg'))
        path.write_bytes(path.read_bytes()[:-40])
    (one,) = check(tmp_path, [(20, 30)] * 4)
    assert one.code == 'image-cut-off' and one.is_error and one.count == 4


def test_cut_off_files_are_named_whatever_opencv_makes_of_them(tmp_path: Path) -> None:
    for i in range(20):
        save(tmp_path / f'{i}.jpg')
    (tmp_path / '3.jpg').write_bytes((tmp_path / '3.jpg').read_bytes()[:-40])
    for fast in (False, True):
        (one,) = check(tmp_path, [(20, 30)] * 20, fast)
        assert one.code in ('image-unreadable', 'image-cut-off') and one.cases[0].startswith(f'{tmp_path}/3.jpg')
        assert one.is_error == (one.code == 'image-unreadable')


def test_channels_that_differ_where_they_are_not_made_equal(tmp_path: Path) -> None:
    paths = [save(tmp_path / f'{mode}.png', mode=mode) for mode in ('RGB', 'L', 'RGBA')]
    paths.append(save(tmp_path / 'other.png'))
    findings = Findings()
    check_images(paths, None, Decoder(flag='unchanged'), 'folder', findings, Pass())
    (one,) = findings.finish()
    assert one.code == 'image-channels' and one.cases == (f'{paths[1]} has 1', f'{paths[2]} has 4')
