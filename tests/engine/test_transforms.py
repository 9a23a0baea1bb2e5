"""The checks of what was loaded, on real files, alone and behind the libraries' own loading."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import Compose
from mmengine.fileio import LocalBackend
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image

from mmtwins.engine.reading import DataFileWarning, read
from mmtwins.engine.transforms import CheckImage, CheckLabels

CHECKED = dict(backend='checked')
LOAD_IMAGE = dict(type='LoadImageFromFile', backend_args=CHECKED)
LOAD_LABELS = dict(type='LoadAnnotations', backend_args=dict(CHECKED, decoder='pillow'))
PIXELS = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)


def write_labels(folder: Path, values: list[int], dtype: type = np.uint8) -> dict:
    Image.fromarray(np.array([values, values], dtype=dtype)).save(folder / 'b.png')
    return dict(seg_map_path=str(folder / 'b.png'), seg_fields=[], reduce_zero_label=False)


def write_picture(folder: Path, kept: float = 1.0, **options) -> dict:
    path = folder / 'a.JPG'
    Image.fromarray(np.tile(PIXELS, (3, 3, 1))).save(path, 'JPEG', **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    return dict(img_path=str(path))


def run(steps: list[dict], results: dict) -> dict:
    """Run steps of MMSegmentation on a copy of ``results``."""
    pytest.importorskip('mmseg.datasets.transforms')
    with DefaultScope.overwrite_default_scope('mmseg'):
        return Compose([dict(step, _scope_='mmseg') for step in steps])({**results, 'seg_fields': []})


@pytest.mark.parametrize('load', [[], [dict(type='LoadAnnotations')], [LOAD_LABELS]], ids=['alone', 'plain', 'checked'])
@pytest.mark.parametrize(
    ('values', 'reduce', 'ignore_label', 'dtype'),
    [
        ([0, 1, 150], True, None, np.uint8),
        ([0, 1, 255], True, None, np.uint8),  # 255 is no class, as 0
        ([0, 149], False, None, np.uint8),
        ([0, 149, 255], False, 255, np.uint8),
        ([0, 150, 255], True, 255, np.uint8),
        ([0, 149, 200], False, 200, np.uint8),
        ([0, 149], False, None, np.uint16),
        ([0, 149, 65535], False, 65535, np.uint16),  # cut down to 255
    ],
)
@pytest.mark.filterwarnings('error::mmtwins.engine.reading.DataFileWarning')
def test_classes_and_ignored_labels_pass(
    values: list[int], reduce: bool, ignore_label: int | None, dtype: type, load: list[dict], tmp_path: Path
) -> None:
    results = dict(write_labels(tmp_path, values, dtype), reduce_zero_label=reduce)
    check = dict(type='CheckLabels', num_classes=150, ignore_label=ignore_label)
    found = run([*load, check], results)
    if load:
        expected = run([dict(type='LoadAnnotations')], results)
        np.testing.assert_array_equal(found['gt_seg_map'], expected['gt_seg_map'])


@pytest.mark.parametrize('load', [[], [dict(type='LoadAnnotations')], [LOAD_LABELS]], ids=['alone', 'plain', 'checked'])
@pytest.mark.parametrize(
    ('label', 'dtype', 'reduce', 'message'),
    [
        (151, np.uint8, True, r'b\.png has the label 151, but labels go from 0 to 150 for 150 classes and 0 = other'),
        (254, np.uint8, True, 'has the label 254'),
        (300, np.uint16, True, 'has the label 300'),  # class 44 once cut down to eight bits
        (150, np.uint8, False, r'b\.png has the label 150, but labels go from 0 to 149 for 150 classes: correct'),
    ],
)
def test_a_label_without_a_class_is_refused(
    label: int, dtype: type, reduce: bool, message: str, load: list[dict], tmp_path: Path
) -> None:
    results = dict(write_labels(tmp_path, [0, 1, label], dtype), reduce_zero_label=reduce)
    with pytest.raises(ValueError, match=message):
        run([*load, dict(type='CheckLabels', num_classes=150)], results)


def test_a_file_is_looked_at_again_if_it_changed(tmp_path: Path) -> None:
    check = CheckLabels(num_classes=150)
    for label, message in ((149, ''), (150, 'has the label 150'), (149, ''), (151, 'has the label 151')):
        results = write_labels(tmp_path, [0, label])
        read(results['seg_map_path'], 'pillow')
        for _ in range(2):
            if message:
                with pytest.raises(ValueError, match=message):
                    check(results)
            else:
                assert check(results) is results


@pytest.mark.parametrize('load', [[], [dict(type='LoadAnnotations')], [LOAD_LABELS]], ids=['alone', 'plain', 'checked'])
def test_255_that_nobody_named_is_warned_of_once(load: list[dict], tmp_path: Path, untold: None) -> None:
    results = write_labels(tmp_path, [0, 1, 255])
    steps = [*load, dict(type='CheckLabels', num_classes=2)]
    with pytest.warns(DataFileWarning, match=r'b\.png has the label 255, which stands for no class') as caught:
        run(steps, results)
        run(steps, results)
    assert len(caught) == 1


def test_labels_without_any_class_are_warned_of(tmp_path: Path, untold: None) -> None:
    """Masks saved as 0 and 255: with reduce_zero_label the loss counts no pixel."""
    results = dict(write_labels(tmp_path, [0, 255]), reduce_zero_label=True)
    with pytest.warns(DataFileWarning, match=r'b\.png has no class anywhere'):
        run([LOAD_LABELS, dict(type='CheckLabels', num_classes=2)], results)


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.engine.reading._told', bytearray(1 << 20))


def test_classes_that_the_data_set_leaves_out_pass(tmp_path: Path) -> None:
    results = dict(write_labels(tmp_path, [0, 1, 2]), label_map={0: 255, 1: 0, 2: 1})
    found = run([LOAD_LABELS, dict(type='CheckLabels', num_classes=2)], results)
    np.testing.assert_array_equal(found['gt_seg_map'][0], [255, 0, 1])


@pytest.mark.parametrize('load', [[], [LOAD_LABELS]], ids=['alone', 'checked'])
def test_a_colour_picture_is_no_label_image(load: list[dict], tmp_path: Path) -> None:
    Image.new('RGB', (4, 4)).save(tmp_path / 'b.png')
    results = dict(seg_map_path=str(tmp_path / 'b.png'), reduce_zero_label=False)
    with pytest.raises(ValueError, match=r'b\.png is no label image: it has 3 channels'):
        run([*load, dict(type='CheckLabels', num_classes=150)], results)


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        ((32, 32), r'b\.png is 32 x 32 pixels \(height x width\), its image 48 x 64: give both the same size$'),
        ((48, 65), r'b\.png is 48 x 65 pixels'),
        ((64, 48), r'b\.png is 64 x 48 .* the same size \(does the image have an EXIF mark that turns it\?\)'),
    ],
)
def test_labels_of_another_size_than_the_image_are_named(size: tuple, message: str, tmp_path: Path) -> None:
    Image.fromarray(PIXELS[:48]).save(tmp_path / 'a.jpg')
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / 'b.png')
    results = dict(img_path=str(tmp_path / 'a.jpg'), seg_map_path=str(tmp_path / 'b.png'), reduce_zero_label=False)
    check = dict(type='CheckLabels', num_classes=2)
    for steps in ([LOAD_IMAGE, LOAD_LABELS], [LOAD_IMAGE, dict(type='Resize', scale=(32, 24)), LOAD_LABELS]):
        with pytest.raises(ValueError, match=message):
            run([*steps, check], results)
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / 'c.png')
        run([*steps, check], dict(results, seg_map_path=str(tmp_path / 'c.png')))


def test_labels_whose_file_is_damaged_are_named_or_warned_of(tmp_path: Path) -> None:
    results = write_labels(tmp_path, [0, 1])
    path = Path(results['seg_map_path'])
    content, steps = path.read_bytes(), [LOAD_LABELS, dict(type='CheckLabels', num_classes=2)]
    for kept in (0, 20, -20):
        path.write_bytes(content[:kept])
        with pytest.raises(ValueError, match=r'b\.png is .* cannot be decoded: copy or download it again'):
            run(steps, results)
    path.write_bytes(content[:-12])  # all but its end
    with pytest.warns(DataFileWarning, match=r'b\.png is truncated: the run goes on') as caught:
        for _ in range(3):
            found = run(steps, results)
    assert len(caught) == 1
    np.testing.assert_array_equal(found['gt_seg_map'][0], [0, 1])


@pytest.mark.filterwarnings('error::mmtwins.engine.reading.DataFileWarning')
def test_images_without_annotation_and_arrays_pass() -> None:
    results = dict(img_path=None)
    assert CheckLabels(num_classes=150)(results) is results
    assert CheckImage()(results) is results
    results = dict(img_path=['a.jpg', 'b.jpg'])  # one file for each channel
    assert CheckImage()(results) is results


@pytest.mark.parametrize('comment', [b'', 'thumbnail'], ids=['plain', 'with thumbnail'])
@pytest.mark.parametrize('kept', [1.0, 0.999, 0.9, 0.5])
def test_truncated_jpegs_are_warned_of_once_and_loaded(kept: float, comment: bytes | str, tmp_path: Path) -> None:
    if comment:
        Image.fromarray(PIXELS[:8, :8]).save(tmp_path / 'thumbnail.jpg')
        comment = (tmp_path / 'thumbnail.jpg').read_bytes()
    results = write_picture(tmp_path, kept, comment=comment)
    steps = [LOAD_IMAGE, dict(type='CheckImage')]
    if kept == 1.0:
        assert run(steps, results)['img'].shape == (192, 192, 3)
        return
    with pytest.warns(DataFileWarning, match=r'a\.JPG is truncated: the run goes on with what is there') as caught:
        for _ in range(3):
            found = run(steps, results)['img']
    assert len(caught) == 1
    whole = run(steps, write_picture(tmp_path))['img']
    np.testing.assert_array_equal(found[:64], whole[:64])


@pytest.mark.filterwarnings('error::mmtwins.engine.reading.DataFileWarning')
def test_images_are_checked_behind_another_backend_too(tmp_path: Path) -> None:
    results = dict(write_picture(tmp_path), img=PIXELS)
    assert CheckImage()(results) is results
    for kept in (0.999, 0.5):
        results = dict(write_picture(tmp_path, kept), img=PIXELS)
        with pytest.raises(DataFileWarning, match=r'a\.JPG is truncated'):
            CheckImage()(results)
        assert CheckImage()(results) is results  # told once
        (tmp_path / 'a.JPG').rename(tmp_path / f'{kept}.jpg')
        tmp_path = tmp_path / 'next'
        tmp_path.mkdir()
    (tmp_path / 'c.png').write_bytes(b'hello')
    with pytest.raises(ValueError, match=r'c\.png is no image and cannot be decoded: copy or download it again'):
        CheckImage()(dict(img_path=str(tmp_path / 'c.png')))


@pytest.mark.parametrize('load_image', [LOAD_IMAGE, dict(type='LoadImageFromFile')], ids=['checked', 'plain'])
def test_nothing_is_read_or_decoded_twice(load_image: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mmcv = pytest.importorskip('mmcv')
    results = {**write_picture(tmp_path), **write_labels(tmp_path, [0, 1])}
    Image.fromarray(np.zeros((192, 192), np.uint8)).save(results['seg_map_path'])
    calls: Counter = Counter()

    get, decode = LocalBackend.get, mmcv.imfrombytes
    monkeypatch.setattr(LocalBackend, 'get', lambda self, path: calls.update([path]) or get(self, path))
    monkeypatch.setattr(
        mmcv, 'imfrombytes', lambda content, **kwargs: calls.update([content]) or decode(content, **kwargs)
    )
    run([load_image, dict(type='CheckImage'), LOAD_LABELS, dict(type='CheckLabels', num_classes=2)], results)
    for path in (results['img_path'], results['seg_map_path']):
        assert calls.pop(path) == 1
        assert calls.pop(Path(path).read_bytes()) == 1
    assert not calls


def test_resolve_from_both_libraries() -> None:
    for library in ('mmseg', 'mmdet'):
        registry = pytest.importorskip(f'{library}.registry').TRANSFORMS
        for transform in (CheckImage, CheckLabels):
            assert registry.get(transform.__name__) is TRANSFORMS.get(transform.__name__) is transform
