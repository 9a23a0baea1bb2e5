"""The generated data sets: formats, agreement of the two, and what is kept or replaced."""

import json
import runpy
import sys

import numpy as np
import pytest

cv2 = pytest.importorskip('cv2')
pytest.importorskip('pycocotools')

from mmtwins.demo import data as toy_data  # noqa: E402
from mmtwins.demo.data import generate_toy_data  # noqa: E402
from mmtwins.demo.scenes import CLASSES, GROUNDS, SPLITS, THINGS  # noqa: E402

TRAIN, VAL, SIZE = 12, 8, 96


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return generate_toy_data(tmp_path_factory.mktemp('toy') / 'data', seed=3, num_train=TRAIN, num_val=VAL, size=SIZE)


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob('*') if path.is_file()}


def read_labels(root, split, image_id):
    return cv2.imread(str(root / f'ade/annotations/{SPLITS[split]}/ADE_{split}_{image_id:08d}.png'), -1)


def test_layout(root):
    names = sorted(str(path.relative_to(root)) for path in root.rglob('*') if path.is_dir())
    assert names == [
        'ade', 'ade/annotations', 'ade/annotations/training', 'ade/annotations/validation', 'ade/images',
        'ade/images/training', 'ade/images/validation', 'coco', 'coco/annotations', 'coco/train2017', 'coco/val2017',
    ]  # fmt: skip
    for split, count in (('train', TRAIN), ('val', VAL)):
        images = sorted((root / 'ade/images' / SPLITS[split]).iterdir())
        labels = sorted((root / 'ade/annotations' / SPLITS[split]).iterdir())
        assert [path.stem for path in images] == [path.stem for path in labels]
        assert len(images) == count and {path.suffix for path in images} == {'.jpg'}
        assert {path.suffix for path in labels} == {'.png'}
        coco = sorted((root / f'coco/{split}2017').iterdir())
        assert [path.read_bytes() for path in coco] == [path.read_bytes() for path in images]  # the same scenes


def test_labels_are_single_channel_classes(root):
    seen = set()
    for split, count in (('train', TRAIN), ('val', VAL)):
        for image_id in range(1, count + 1):
            labels = read_labels(root, split, image_id)
            assert labels.dtype == np.uint8 and labels.shape == (SIZE, SIZE)
            seen |= set(np.unique(labels).tolist())
    assert seen - {0} == set(range(1, len(CLASSES) + 1))


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_annotations(root, split):
    coco_api = pytest.importorskip('pycocotools.coco')
    coco = coco_api.COCO(str(root / f'coco/annotations/instances_{split}2017.json'))
    assert [c['name'] for c in coco.dataset['categories']] == [thing.name for thing in THINGS]
    assert [c['id'] for c in coco.dataset['categories']] == list(range(1, len(THINGS) + 1))
    annotations = coco.dataset['annotations']
    assert len({a['id'] for a in annotations}) == len(annotations) > 20
    kinds = {type(a['segmentation']) for a in annotations}
    assert kinds == {list, dict}  # polygons, and run lengths where there are holes
    for image in coco.dataset['images']:
        labels = read_labels(root, split, image['id'])
        assert (image['height'], image['width']) == labels.shape
        assert (root / f'coco/{split}2017' / image['file_name']).is_file()
        things = np.zeros_like(labels)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation).astype(bool)
            assert annotation['iscrowd'] == 0
            assert annotation['area'] == mask.sum() > 0
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation['bbox']
            assert (x, y, x + width - 1, y + height - 1) == (
                columns.min(), rows.min(), columns.max(), rows.max())  # fmt: skip
            assert not things[mask].any()  # only what is visible
            things[mask] = len(GROUNDS) + annotation['category_id']
        assert np.array_equal(things, np.where(labels > len(GROUNDS), labels, 0))


def test_same_seed_same_files(root, tmp_path):
    again = generate_toy_data(tmp_path / 'again', seed=3, num_train=TRAIN, num_val=VAL, size=SIZE)
    assert files_of(again) == files_of(root)
    other = generate_toy_data(tmp_path / 'other', seed=4, num_train=TRAIN, num_val=VAL, size=SIZE)
    shared = [path for path, content in files_of(other).items() if files_of(root)[path] == content]
    assert shared == []


def test_polygons_are_exact():
    mask_api = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    traced = 0
    for _ in range(200):
        mask = cv2.resize(rng.random((5, 5)), (30, 30)) > 0.6
        polygons = toy_data._polygons(mask)
        if polygons:
            traced += 1
            decoded = mask_api.decode(mask_api.frPyObjects(polygons, 30, 30)).max(axis=2)
            assert np.array_equal(decoded, mask)
    assert traced > 50
    ring = np.zeros((9, 9), bool)
    ring[1:8, 1:8] = True
    ring[4, 4] = False
    assert toy_data._polygons(ring) is None


def test_kept_and_replaced(tmp_path):
    arguments = dict(seed=0, num_train=2, num_val=1, size=64)
    calls = []
    root = generate_toy_data(tmp_path / 'toy', **arguments, progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    before = {path: path.stat().st_mtime_ns for path in root.rglob('*')}
    generate_toy_data(tmp_path / 'toy', **arguments, progress=lambda *call: pytest.fail('drawn again'))
    assert {path: path.stat().st_mtime_ns for path in root.rglob('*')} == before
    generate_toy_data(tmp_path / 'toy', **dict(arguments, num_train=3))
    assert len(list((root / 'ade/images/training').iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ['toy']


def test_foreign_files_are_not_replaced(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds other things'):
        generate_toy_data(tmp_path, num_train=1, num_val=1)
    root = generate_toy_data(tmp_path / 'toy', num_train=1, num_val=1, size=64)
    (root / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='holds other things'):
        generate_toy_data(root, num_train=2, num_val=1, size=64)
    assert (root / 'notes.txt').read_text() == 'mine'


def test_interrupted_generation_is_not_trusted(tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_toy_data(tmp_path / 'toy', num_train=3, num_val=1, size=64, progress=stop)
    assert not (tmp_path / 'toy').exists()
    whole = generate_toy_data(tmp_path / 'toy', num_train=3, num_val=1, size=64)
    expected = generate_toy_data(tmp_path / 'expected', num_train=3, num_val=1, size=64)
    assert files_of(whole) == files_of(expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['expected', 'toy']


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [(dict(seed=-1), 'seed=-1'), (dict(num_val=0), 'num_val=0'), (dict(size=20), 'size=20')],
)
def test_wrong_arguments(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        generate_toy_data(tmp_path / 'toy', **arguments)
    assert not (tmp_path / 'toy').exists()


def test_command_line(tmp_path, capsys):
    arguments = [str(tmp_path / 'toy'), '--num-train', '2', '--num-val', '1', '--size', '64x64']
    assert toy_data.main(arguments) == 0
    out = capsys.readouterr().out
    assert '3 of 3 scenes' in out and out.splitlines()[-1] == str(tmp_path / 'toy/coco')
    manifest = json.loads((tmp_path / 'toy' / toy_data.MANIFEST).read_text())
    assert (manifest['num_train'], manifest['size']) == (2, 64)
    for more, message in (
        (['--seed', '-5'], 'seed=-5'),
        (['--size', '64x96'], '--size 64x96: the scenes are squares'),
        (['--size', 'a'], "'a' is no image size"),
    ):
        with pytest.raises(SystemExit, match='2'):
            toy_data.main([*arguments, *more])
        assert message in capsys.readouterr().err


def test_the_module_is_a_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['data.py', '--help'])
    monkeypatch.delitem(sys.modules, 'mmtwins.demo.data')
    with pytest.raises(SystemExit, match='0'):
        runpy.run_module('mmtwins.demo.data', run_name='__main__')
    assert '--num-train' in capsys.readouterr().out
