"""The generated datasets: formats, agreement of the two, determinism, and that colour alone does not give the classes."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mmtwins.demo import data as toy_data
from mmtwins.demo.data import CLASSES, GROUNDS, SPLITS, THINGS, draw_scene, generate_toy_data

cv2 = pytest.importorskip('cv2')

TRAIN, VAL, SIZE = 12, 8, 96
KNOWN = dict(
    things=['kite', 'crate', 'buoy', 'kite'],
    image=[1924, 1803, 1020, 1426],
    labels=[0, 2396, 0, 9725, 0, 1086, 0, 1603, 1574, 0],
)


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


def test_pixels_of_a_known_seed():
    """Drawing does not depend on the machine; a change of what is drawn needs a new toy_data.VERSION."""
    scene = draw_scene(seed=0, split='train', index=0, size=128)
    assert [THINGS[thing].name for thing, _ in scene.instances] == KNOWN['things']
    assert scene.image[::32, ::32].sum(axis=(1, 2)).tolist() == KNOWN['image']
    assert np.bincount(scene.labels.ravel(), minlength=10).tolist() == KNOWN['labels']


def test_splits_differ():
    train, val = (draw_scene(0, split, 0) for split in ('train', 'val'))
    assert not np.array_equal(train.image, val.image)


def test_overlap_occlusion_scale_and_rotation():
    scenes = [draw_scene(1, 'train', index) for index in range(60)]
    hidden = np.concatenate([scene.hidden for scene in scenes])
    assert 0.2 < np.mean(hidden > 0.1) < 0.7 and hidden.max() <= 0.6
    areas = np.array([mask.sum() for scene in scenes for _, mask in scene.instances])
    assert np.quantile(areas, 0.95) > 3 * np.quantile(areas, 0.05)
    assert {len(scene.instances) for scene in scenes} == {3, 4, 5, 6}
    assert {thing for scene in scenes for thing, _ in scene.instances} == set(range(len(THINGS)))
    # Things that lie whole in the image are as often steep as flat.
    steep = []
    for scene in scenes:
        for (thing, mask), lost in zip(scene.instances, scene.hidden, strict=True):
            if lost == 0 and THINGS[thing].name == 'crate':
                rows, columns = np.nonzero(mask)
                steep.append(np.ptp(rows) > np.ptp(columns))
    assert 0.2 < np.mean(steep) < 0.8


def test_every_cue_belongs_to_several_classes():
    for cue in ('patterns', 'outlines'):
        uses = {}
        for thing in THINGS:
            assert sum(getattr(thing, cue).values()) == pytest.approx(1)
            for name in getattr(thing, cue):
                uses.setdefault(name, set()).add(thing.name)
        assert sum(len(users) > 1 for users in uses.values()) >= 4

    def reaches(colours, hue):
        return abs((hue - colours.hue[0] + 180) % 360 - 180) <= colours.hue[1]

    for one in GROUNDS + THINGS:
        hues = [hue for hue in range(360) if reaches(one, hue)]
        shared = [hue for hue in hues if any(reaches(other, hue) for other in GROUNDS + THINGS if other is not one)]
        assert len(shared) >= 0.5 * len(hues), one.name


def test_small_parts_are_other_in_both():
    mask = np.zeros((40, 40), bool)
    mask[5:20, 5:20] = True
    mask[30:33, 30:35] = True  # 15 pixels, one below the limit
    kept = toy_data._without_small_parts(mask)
    assert kept.sum() == 15 * 15 and not kept[30:].any()
    mask[33, 30] = True
    assert toy_data._without_small_parts(mask).sum() == 15 * 15 + 16


def test_polygons_are_exact():
    mask_api = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    traced = 0
    for _ in range(200):
        mask = cv2.resize(rng.random((5, 5)), (30, 30)) > 0.6
        polygons, runs = toy_data._polygons(mask), toy_data._run_lengths(mask)
        decoded = mask_api.decode(mask_api.frPyObjects(runs, 30, 30))
        assert np.array_equal(decoded, mask)
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


def test_command_line(tmp_path):
    command = [sys.executable, '-m', 'mmtwins.demo.data', str(tmp_path / 'toy'), '--num-train', '2', '--num-val', '1']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '3 of 3 scenes' in done.stdout
    manifest = json.loads((tmp_path / 'toy' / toy_data.MANIFEST).read_text())
    assert (manifest['num_train'], manifest['size']) == (2, 128)
    refused = subprocess.run([*command, '--seed', '-5'], capture_output=True, text=True)
    assert refused.returncode == 2 and 'seed=-5' in refused.stderr and 'Traceback' not in refused.stderr


def test_colour_alone_does_not_give_the_classes(record_property):
    """A 32 x 32 x 32-bin RGB histogram with the majority class per bin stays below 0.45 mIoU on held-out scenes."""

    def bins(image):
        index = image.astype(int) >> 3
        return (index[..., 0] * 32 + index[..., 1]) * 32 + index[..., 2]

    histogram = np.zeros((32**3, len(CLASSES) + 1), int)
    for index in range(600):
        scene = draw_scene(0, 'train', index)
        np.add.at(histogram, (bins(scene.image), scene.labels), 1)
    majority = histogram[:, 1:].argmax(axis=1) + 1
    confusion = np.zeros((len(CLASSES) + 1,) * 2, int)
    for index in range(100):
        scene = draw_scene(0, 'val', index)
        np.add.at(confusion, (scene.labels, majority[bins(scene.image)]), 1)
    confusion = confusion[1:, 1:]  # 0 = other is ignored
    hit = confusion.diagonal()
    miou = np.mean(hit / (confusion.sum(axis=0) + confusion.sum(axis=1) - hit))
    record_property('histogram_miou', float(miou))
    print(f'histogram classifier: mIoU {miou:.3f}')
    assert 1 / len(CLASSES) < miou < 0.45
