"""Results on disk: label images, COCO's JSON files, names and videos."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import read_frames, write_image, write_video
from toys import DETECTOR, SEGMENTOR

from mmtwins.demo.scenes import CLASSES

pytest.importorskip('mmcv._ext')
cv2 = pytest.importorskip('cv2')

from mmtwins.datasets.dataset_info import DatasetInfo  # noqa: E402
from mmtwins.inference.predictor import Predictor  # noqa: E402
from mmtwins.inference.sources import find_sources  # noqa: E402
from mmtwins.inference.writers import ResultWriter, _category_ids, name_results  # noqa: E402


def write_results(predictor: Predictor, sources: list[str], out: Path, **options) -> ResultWriter:
    with ResultWriter(out, sources, predictor.info, predictor.is_detector) as writer:
        for result in predictor(sources, **options):
            writer.add(result)
    return writer


def test_label_images_are_in_ade20ks_format(segmentor, toy_data, tmp_path):
    from PIL import Image

    sources = find_sources(toy_data / 'ade/images/validation')
    write_results(segmentor, sources, tmp_path)
    for result in segmentor(sources):
        with Image.open(tmp_path / 'labels' / f'{Path(result.path).stem}.png') as image:
            assert image.mode == 'L'
            np.testing.assert_array_equal(np.asarray(image), result.labels + 1)
    values = json.loads((tmp_path / 'classes.json').read_text())['values']
    assert values == {'0': 'other', **{str(i + 1): name for i, name in enumerate(CLASSES)}}


def test_label_images_are_class_indices_without_reduce_zero_label(seg_checkpoint, photo, tmp_path):
    options = {'test_dataloader.dataset.reduce_zero_label': False}
    predictor = Predictor(SEGMENTOR, seg_checkpoint, 'cpu', cfg_options=options)
    path = write_image(tmp_path / 'x.png', photo)
    write_results(predictor, [path], tmp_path / 'out')
    (result,) = predictor([path])
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'out/labels/x.png'), cv2.IMREAD_UNCHANGED), result.labels)
    assert json.loads((tmp_path / 'out/classes.json').read_text())['values']['0'] == 'grass'


def test_coco_results_are_what_pycocotools_reads(detector, det_checkpoint, toy_data, tmp_path):
    from pycocotools.coco import COCO

    # Category ids that are neither the classes' order nor consecutive.
    root = tmp_path / 'coco'
    (root / 'annotations').mkdir(parents=True)
    content = json.loads((toy_data / 'coco/annotations/instances_val2017.json').read_text())
    for entry in content['categories']:
        entry['id'] = 7 * entry['id']
    for entry in content['annotations']:
        entry['category_id'] = 7 * entry['category_id']
    for entry in content['images']:
        entry['id'] += 100
    content['annotations'] = []
    (root / 'annotations/instances_val2017.json').write_text(json.dumps(content))
    predictor = Predictor(DETECTOR, det_checkpoint, 'cpu', 0.0, {'data_root': str(root)})
    sources = find_sources(toy_data / 'coco/val2017')
    assert not write_results(predictor, sources, tmp_path / 'out').notes

    for annotations in (root / 'annotations/instances_val2017.json', tmp_path / 'out/coco_images.json'):
        found = COCO(str(annotations)).loadRes(str(tmp_path / 'out/coco_results.json'))
        for result, image_id in zip(predictor(sources), (101, 102, 103, 104), strict=True):
            entries = found.imgToAnns[image_id]
            np.testing.assert_allclose([e['score'] for e in entries], result.scores)
            assert [e['category_id'] for e in entries] == [7 * (label + 1) for label in result.labels]
            left, top, right, bottom = result.boxes.T
            np.testing.assert_allclose(
                [e['bbox'] for e in entries], np.transpose([left, top, right - left, bottom - top])
            )
            for entry, mask in zip(entries, result.masks):
                np.testing.assert_array_equal(found.annToMask(entry), mask)


@pytest.mark.parametrize(
    ('names', 'ids'),
    [
        (('000000000139.jpg', '7.png'), (139, 7)),
        (('a.jpg', '7.png'), (2, 1)),
        (('1.jpg', 'x/01.jpg'), (1, 2)),
        (('a/1.jpg', 'b/1.jpg'), (1, 2)),
    ],
    ids=['numbers', 'others', 'same number twice', 'same name twice'],
)
def test_image_ids_of_other_images(detector, photo, tmp_path, names, ids):
    for name in names:
        write_image(tmp_path / 'in' / name, photo)
    write_results(detector, find_sources(tmp_path / 'in'), tmp_path / 'out')
    images = json.loads((tmp_path / 'out/coco_images.json').read_text())['images']
    assert {image['file_name']: image['id'] for image in images} == dict(zip(names, ids))


def test_images_have_the_ids_of_the_annotation_file_folders_included(detector, photo, tmp_path):
    known = [dict(id=70, file_name='b/1.jpg'), dict(id=80, file_name='a/1.jpg'), dict(id=90, file_name='1.jpg')]
    for images, expected in (
        (known, {'a/1.jpg': 80, 'b/1.jpg': 70}),
        (known[2:], {'a/1.jpg': 1, 'b/1.jpg': 2}),  # one entry cannot be that of two files
        (known[:1], {'a/1.jpg': 1, 'b/1.jpg': 2}),
    ):
        (tmp_path / 'known.json').write_text(json.dumps(dict(images=images, categories=[])))
        info = replace(detector.info, annotation_file=tmp_path / 'known.json')
        sources = [write_image(tmp_path / 'in' / name, photo) for name in expected]
        with ResultWriter(tmp_path / 'out', sources, info, True) as writer:
            for result in detector(sources):
                writer.add(result)
        written = json.loads((tmp_path / 'out/coco_images.json').read_text())['images']
        assert {image['file_name']: image['id'] for image in written} == expected
        results = json.loads((tmp_path / 'out/coco_results.json').read_text())
        assert {result['image_id'] for result in results} <= set(expected.values())


def test_category_ids_of_coco_are_known_without_its_files():
    CocoDataset = pytest.importorskip('mmdet.datasets').CocoDataset
    ids, note = _category_ids(DatasetInfo(tuple(CocoDataset.METAINFO['classes']), (), False, Path('gone.json')), {})
    names = dict(zip(CocoDataset.METAINFO['classes'], ids))
    assert len(ids) == 80 and not note
    assert [names[name] for name in ('person', 'stop sign', 'dining table', 'toilet', 'toothbrush')] == [
        1,
        13,
        67,
        70,
        90,
    ]
    ids, note = _category_ids(DatasetInfo(('a', 'b'), (), False, Path('gone.json')), {})
    assert ids == [1, 2] and 'gone.json' in note


def test_category_ids_are_those_that_the_annotation_file_gives_the_names():
    info = DatasetInfo(('b', 'a'), (), False, Path('own.json'))
    categories = [dict(id=5, name='a'), dict(id=9, name='c'), dict(id=3, name='b')]
    assert _category_ids(info, dict(categories=categories)) == ([3, 5], '')
    for others in (categories[:2], [*categories, dict(id=8, name='b')]):
        ids, note = _category_ids(info, dict(categories=others))
        assert ids == [1, 2] and note == (
            'category ids are 1 to 2, in the order of the classes: own.json is not there or has other classes'
        )


def test_names_of_results_differ(photo, tmp_path):
    for name in ('a/x.jpg', 'b/x.jpg', 'b/y.jpg', 'b/y.png', 'z.jpg'):
        write_image(tmp_path / name, photo)
    (tmp_path / 'z.txt').touch()  # beside its image
    sources = find_sources(tmp_path)
    names = {os.path.relpath(path, tmp_path): name for path, name in name_results(sources).items()}
    assert names == {
        'a/x.jpg': 'a/x',
        'b/x.jpg': 'b/x',
        'b/y.jpg': 'b/y.jpg',
        'b/y.png': 'b/y.png',
        'z.jpg': 'z',
        'z.txt': 'z',
    }
    write_image(tmp_path / 'b/y.png.jpg', photo)
    names = name_results(find_sources(tmp_path))
    assert len(set(names.values())) == len(names) == 7


def test_results_never_replace_an_input(segmentor, photo, tmp_path):
    path = write_image(tmp_path / 'labels/x.png', photo)
    with pytest.raises(ValueError, match='would be overwritten'):
        ResultWriter(tmp_path, [path], segmentor.info, False)


def test_a_video_gives_a_video_and_labels_of_each_frame(segmentor, photo, tmp_path):
    path = write_video(tmp_path / 'clip.mp4', photo, frames=5)
    write_results(segmentor, [path], tmp_path / 'out', batch_size=2)
    labels = sorted((tmp_path / 'out/labels/clip').iterdir())
    assert [p.name for p in labels] == [f'{i:06d}.png' for i in range(1, 6)]
    results = list(segmentor([path]))
    assert [result.frame for result in results] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(cv2.imread(str(labels[3]), cv2.IMREAD_UNCHANGED), results[3].labels + 1)
    overlays = read_frames(tmp_path / 'out/overlays/clip.mp4')
    assert len(overlays) == 5
    assert cv2.VideoCapture(str(tmp_path / 'out/overlays/clip.mp4')).get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    expected = results[3].overlay(fixed_legend=True)[..., ::-1].astype(int)
    height, width = expected.shape[:2]
    assert np.abs(overlays[3][:height, :width] - expected).mean() < 12


def test_a_video_of_a_detector_numbers_its_frames_as_images(detector, photo, tmp_path):
    path = write_video(tmp_path / 'clip.avi', photo, frames=3)
    write_results(detector, [path], tmp_path / 'out')
    images = json.loads((tmp_path / 'out/coco_images.json').read_text())['images']
    assert [(i['id'], i['file_name']) for i in images] == [(1, 'clip/000001'), (2, 'clip/000002'), (3, 'clip/000003')]
    assert (tmp_path / 'out/overlays/clip.mp4').stat().st_size > 0
