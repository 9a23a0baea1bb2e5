"""Predictions for images and videos: what is read, what comes out, and what is written."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from recipes import CONFIGS, NAMES

import mmtwins
from mmtwins.demo.data import CLASSES, PALETTE, THING_CLASSES
from mmtwins.engine.config import load_config
from mmtwins.inference.inferencers import prepare_config
from mmtwins.inference.predictor import Predictor
from mmtwins.inference.sources import find_sources
from mmtwins.inference.writers import ResultWriter, name_results

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
cv2 = pytest.importorskip('cv2')

SEGMENTOR = next((CONFIGS / 'toy').glob('upernet*.py'))
DETECTOR = next((CONFIGS / 'toy').glob('mask-rcnn*.py'))


def save_checkpoint(config: Path, path: Path, meta: dict | None = None, **options) -> Path:
    """Save random weights of a config's model."""
    cfg = load_config(str(config), options)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    if cfg.default_scope == 'mmdet':  # fresh heads find nothing
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.2)
    torch.save(dict(state_dict=model.state_dict(), meta=meta or {}), path)
    return path


@pytest.fixture(scope='module')
def seg_checkpoint(tmp_path_factory) -> Path:
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE, reduce_zero_label=True))
    return save_checkpoint(SEGMENTOR, tmp_path_factory.mktemp('seg') / 'seg.pth', meta)


@pytest.fixture(scope='module')
def det_checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(DETECTOR, tmp_path_factory.mktemp('det') / 'det.pth')


@pytest.fixture(scope='module')
def segmentor(seg_checkpoint) -> Predictor:
    return Predictor(SEGMENTOR, seg_checkpoint, 'cpu')


@pytest.fixture(scope='module')
def detector(det_checkpoint, toy_data) -> Predictor:
    return Predictor(DETECTOR, det_checkpoint, 'cpu', 0.0, {'data_root': str(toy_data / 'coco')})


@pytest.fixture(scope='module')
def photo(toy_data) -> np.ndarray:
    """(128, 128, 3) BGR."""
    return cv2.imread(str(next((toy_data / 'coco/val2017').iterdir())))


def write(path: Path, image: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return str(path)


def write_video(path: Path, image: np.ndarray, frames: int, rate: float = 12) -> str:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, image.shape[1::-1])
    for i in range(frames):
        writer.write(np.roll(image, 8 * i, axis=1))
    writer.release()
    return str(path)


def read_frames(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames


# What comes out --------------------------------------------------------------------------------------------------------


def expected_samples(predictor: Predictor, config: Path, root: Path) -> list:
    """What the config's own test loop predicts on its test set."""
    from mmengine.dataset import pseudo_collate

    cfg = load_config(str(config), {'data_root': str(root)})
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with torch.no_grad():
        return [predictor.inferencer.model.test_step(pseudo_collate([item]))[0] for item in dataset]


def test_segmentation_is_that_of_the_test_loop(segmentor, toy_data):
    results = list(segmentor(find_sources(toy_data / 'ade/images/validation'), batch_size=3))
    expected = expected_samples(segmentor, SEGMENTOR, toy_data / 'ade')
    assert [r.path for r in results] == [sample.img_path for sample in expected]
    for result, sample in zip(results, expected):
        assert result.is_segmentation
        np.testing.assert_array_equal(result.labels, sample.pred_sem_seg.data[0])
        np.testing.assert_array_equal(result.image, cv2.imread(result.path)[..., ::-1])
        assert 'seg_logits' not in result.sample  # 400 MB for a photo and 150 classes
    assert len(np.unique([r.labels for r in results])) > 1


def test_detections_are_those_of_the_test_loop(detector, toy_data):
    results = list(detector(find_sources(toy_data / 'coco/val2017'), batch_size=2))
    for result, sample in zip(results, expected_samples(detector, DETECTOR, toy_data / 'coco'), strict=True):
        expected = sample.pred_instances
        order = expected.scores.argsort(descending=True)
        assert len(order) > 3
        np.testing.assert_allclose(result.scores, expected.scores[order], rtol=1e-4)
        np.testing.assert_allclose(result.boxes, expected.bboxes[order], atol=1e-2)
        np.testing.assert_array_equal(result.labels, expected.labels[order])
        assert (result.masks == expected.masks[order].numpy()).mean() > 0.999


def test_batches_do_not_mix_sizes_or_change_the_order(segmentor, photo):
    sizes = [(128, 128), (64, 160), (128, 128), (96, 96), (64, 160), (128, 128)]
    images = [cv2.resize(np.roll(photo, 10 * i, axis=0), size[::-1]) for i, size in enumerate(sizes)]
    batched, single = (list(segmentor(images, batch_size=n)) for n in (2, 1))
    assert [r.labels.shape for r in batched] == sizes
    for one, other in zip(batched, single, strict=True):
        assert (one.labels == other.labels).mean() > 0.999
        np.testing.assert_array_equal(one.image, other.image)


def test_scores_below_the_threshold_are_left_out(detector, det_checkpoint, photo):
    (everything,) = detector([photo])
    threshold = float(np.median(everything.scores))
    (result,) = mmtwins.infer(DETECTOR, det_checkpoint, photo, device='cpu', score_thr=threshold)
    np.testing.assert_array_equal(result.scores, everything.scores[everything.scores >= threshold])
    assert 0 < len(result.scores) < len(everything.scores)
    assert len(result.masks) == len(result.boxes) == len(result.labels) == len(result.scores)


def test_infer_takes_what_the_tool_takes(seg_checkpoint, photo, tmp_path):
    write(tmp_path / 'b.png', photo)
    write(tmp_path / 'a/c.jpg', photo)
    results = mmtwins.infer(SEGMENTOR, seg_checkpoint, tmp_path, device='cpu')
    assert next(results).path == str(tmp_path / 'a/c.jpg')
    results = mmtwins.infer(str(SEGMENTOR), str(seg_checkpoint), [photo, f'{tmp_path}/*.png'], device='cpu')
    assert [result.path for result in results] == [None, str(tmp_path / 'b.png')]


# What is read ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'change'),
    [
        ('grey.png', lambda x: x[..., 0]),
        ('deep.png', lambda x: x.astype(np.uint16) * 257),
        ('deep.tif', lambda x: x[..., 0].astype(np.uint16) * 257),
        ('alpha.png', lambda x: np.dstack([x, x[..., :1]])),
        ('blank ünï [1].jpg', lambda x: x),
    ],
)
def test_images_of_other_kinds_are_read_as_colour(segmentor, photo, tmp_path, name, change):
    (result,) = segmentor(find_sources(write(tmp_path / name, change(photo))))
    expected = photo if change(photo).ndim == 3 else photo[..., :1].repeat(3, axis=2)
    assert result.labels.shape == (128, 128)
    assert np.abs(result.image[..., ::-1].astype(int) - expected).mean() < 3


def test_a_photo_is_turned_as_its_exif_data_say(segmentor, photo, tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn clockwise
    Image.fromarray(photo[:96, :, ::-1]).save(tmp_path / 'turned.jpg', exif=exif, quality=95)
    (result,) = segmentor([str(tmp_path / 'turned.jpg')])
    assert result.labels.shape == (128, 96)
    assert np.abs(result.image.astype(int) - np.rot90(photo[:96, :, ::-1], -1)).mean() < 5


def test_what_cannot_be_read_or_is_too_small_is_skipped_with_its_reason(segmentor, photo, tmp_path):
    good = write(tmp_path / 'good.png', photo)
    whole = Path(write(tmp_path / 'whole.jpg', photo)).read_bytes()
    bad = {
        'cut.jpg': whole[: len(whole) // 2],
        'empty.jpg': b'',
        'text.png': b'hello',
        'video.mp4': b'hello',
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    tiny = write(tmp_path / 'tiny.png', photo[:20, :40])
    paths = [good, *(str(tmp_path / name) for name in bad), tiny, str(tmp_path / 'gone.jpg'), good]
    skipped = {}
    results = list(segmentor(paths, batch_size=4, on_skip=skipped.__setitem__))
    assert [result.path for result in results] == [good, good]
    assert {Path(name).name for name in skipped} == {*bad, 'tiny.png', 'gone.jpg'}
    reasons = {Path(name).name: reason for name, reason in skipped.items()}
    assert 'truncated' in reasons['cut.jpg']
    assert '20 x 40' in reasons['tiny.png'] and '32' in reasons['tiny.png']
    assert reasons['gone.jpg'] == 'No such file or directory'
    assert all('\n' not in reason for reason in reasons.values())
    with pytest.warns(UserWarning, match=r'text\.png skipped: no image'):
        assert not list(segmentor([str(tmp_path / 'text.png')]))


def test_a_small_image_in_a_batch_does_not_take_the_others_along(segmentor, photo):
    tiny = photo[:16, :16]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        results = list(segmentor([tiny, photo, tiny], batch_size=4))
    assert len(results) == 1
    assert sum('too small' in str(w.message) for w in caught) == 2


def test_sources(tmp_path):
    for name in ('b.jpg', 'a/2.jpg', 'a/10.jpg', '.hidden.jpg', '.folder/x.jpg', 'odd[1].jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'empty').mkdir()
    files = [str(tmp_path / name) for name in ('a/10.jpg', 'a/2.jpg', 'b.jpg', 'odd[1].jpg')]
    assert find_sources(tmp_path) == files
    assert find_sources(f'{tmp_path}/**/*.jpg') == files
    assert find_sources(tmp_path / 'odd[1].jpg') == files[-1:]
    assert find_sources([tmp_path / 'b.jpg', 'gone.jpg']) == [files[2], 'gone.jpg']
    for name, message in (('empty', 'holds no files'), ('gone.jpg', 'no such file'), ('*.webp', 'no file matches')):
        with pytest.raises(FileNotFoundError, match=message):
            find_sources(tmp_path / name)


def test_arguments_out_of_range(seg_checkpoint, segmentor, photo):
    for arguments, message in (
        (dict(score_thr=1.5), 'from 0 to 1'),
        (dict(device='tpu7'), 'tpu7'),
        (dict(batch_size=0), 'at least 1'),
    ):
        with pytest.raises(ValueError, match=message):
            mmtwins.infer(SEGMENTOR, seg_checkpoint, photo, **{'device': 'cpu', **arguments})
    with pytest.raises(ValueError, match='no image'):
        segmentor([photo.astype(float)])


# Which models ----------------------------------------------------------------------------------------------------------


def test_classes_come_from_the_checkpoint_else_from_the_config(segmentor, detector, tmp_path):
    assert segmentor.info.classes == CLASSES and segmentor.info.palette == PALETTE
    assert segmentor.info.reduce_zero_label
    assert detector.info.classes == THING_CLASSES and detector.info.palette == PALETTE[3:]
    names = tuple(f'class {i}' for i in range(9))
    noted = save_checkpoint(SEGMENTOR, tmp_path / 'old.pth', dict(CLASSES=names, PALETTE=None))
    assert Predictor(SEGMENTOR, noted, 'cpu').info.classes == names


def test_checkpoints_that_do_not_fit_are_refused(seg_checkpoint, det_checkpoint, tmp_path):
    other = save_checkpoint(
        SEGMENTOR, tmp_path / 'o.pth', **{'model.decode_head.num_classes': 5, 'model.auxiliary_head.num_classes': 5}
    )
    backbone = tmp_path / 'backbone.pth'
    weights = torch.load(seg_checkpoint)['state_dict']
    torch.save({k: v for k, v in weights.items() if k.startswith('backbone.')}, backbone)
    foreign = tmp_path / 'foreign.pth'
    torch.save({'conv1.weight': torch.zeros(3)}, foreign)
    wrong_names = save_checkpoint(SEGMENTOR, tmp_path / 'n.pth', dict(dataset_meta=dict(classes=('a', 'b'))))
    for checkpoint, message in (
        (other, '5 outputs in the checkpoint, 9 in the model'),
        (backbone, 'decode_head: not in the checkpoint'),
        (foreign, 'no Twins backbone'),
        (det_checkpoint, 'det.pth'),
        (wrong_names, '9 classes, but 2 are named'),
    ):
        with pytest.raises(ValueError, match=message):
            Predictor(SEGMENTOR, checkpoint, 'cpu')
    with pytest.raises(FileNotFoundError, match=r'gone\.pth'):
        Predictor(SEGMENTOR, tmp_path / 'gone.pth', 'cpu')


def test_a_checkpoint_without_auxiliary_head_will_do(seg_checkpoint, segmentor, photo, tmp_path):
    weights = torch.load(seg_checkpoint)['state_dict']
    torch.save({k: v for k, v in weights.items() if not k.startswith('auxiliary')}, tmp_path / 'lean.pth')
    (result,) = mmtwins.infer(SEGMENTOR, tmp_path / 'lean.pth', photo, device='cpu')
    (expected,) = segmentor([photo])
    np.testing.assert_array_equal(result.labels, expected.labels)


@pytest.mark.parametrize('name', NAMES)
def test_the_pipelines_of_the_recipes_take_an_image_alone(name, photo):
    cfg = load_config(str(next(CONFIGS.glob(f'*/{name}.py'))))
    library = prepare_config(cfg, name)
    assert library == ('mmseg' if 'ade20k' in name else 'mmdet')
    kinds = [step['type'] for step in cfg.test_dataloader.dataset.pipeline]
    assert kinds == [
        'LoadImageFromFile',
        'CheckImage',
        'Resize',
        'PackSegInputs' if library == 'mmseg' else 'PackDetInputs',
    ]


def test_a_config_that_names_transforms_by_class_and_wraps_its_data_set(seg_checkpoint, segmentor, photo, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(f"""
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets import BaseSegDataset, ConcatDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs

pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
test_dataloader = dict(
    dataset=dict(
        type=ConcatDataset,
        datasets=[
            dict(type=BaseSegDataset, metainfo=dict(classes={CLASSES}), reduce_zero_label=False, pipeline=pipeline)
        ],
    )
)
default_scope = 'mmseg'
model = {load_config(str(SEGMENTOR)).model.to_dict()}
""")
    predictor = Predictor(config, seg_checkpoint, 'cpu')
    assert not predictor.info.reduce_zero_label
    (result,), (expected,) = predictor([photo]), segmentor([photo])
    np.testing.assert_array_equal(result.labels, expected.labels)


def test_configs_that_are_not_for_predictions(seg_checkpoint, tmp_path):
    for text, message in (
        ("default_scope = 'mmpretrain'", 'mmpretrain'),
        ("default_scope = 'mmseg'\nmodel = dict(type='EncoderDecoder')", 'lacks'),
    ):
        (tmp_path / 'c.py').write_text(text)
        with pytest.raises(ValueError, match=message):
            Predictor(tmp_path / 'c.py', seg_checkpoint, 'cpu')


# What is written -------------------------------------------------------------------------------------------------------


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
    path = write(tmp_path / 'x.png', photo)
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
    assert not write_results(predictor, sources, tmp_path / 'out').note

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
    [(('000000000139.jpg', '7.png'), (139, 7)), (('a.jpg', '7.png'), (2, 1)), (('1.jpg', 'x/01.jpg'), (1, 2))],
    ids=['numbers', 'others', 'same number twice'],
)
def test_image_ids_of_other_images(detector, photo, tmp_path, names, ids):
    for name in names:
        write(tmp_path / 'in' / name, photo)
    write_results(detector, find_sources(tmp_path / 'in'), tmp_path / 'out')
    images = json.loads((tmp_path / 'out/coco_images.json').read_text())['images']
    assert {image['file_name']: image['id'] for image in images} == {Path(n).name: i for n, i in zip(names, ids)}


def test_category_ids_of_coco_are_known_without_its_files():
    from mmdet.datasets import CocoDataset

    from mmtwins.inference.inferencers import DatasetInfo
    from mmtwins.inference.writers import _category_ids

    ids, note = _category_ids(DatasetInfo(tuple(CocoDataset.METAINFO['classes']), (), False, Path('gone.json')))
    names = dict(zip(CocoDataset.METAINFO['classes'], ids))
    assert len(ids) == 80 and not note
    assert [names[name] for name in ('person', 'stop sign', 'dining table', 'toilet', 'toothbrush')] == [
        1,
        13,
        67,
        70,
        90,
    ]
    ids, note = _category_ids(DatasetInfo(('a', 'b'), (), False, Path('gone.json')))
    assert ids == [1, 2] and 'gone.json' in note


def test_names_of_results_differ(photo, tmp_path):
    for name in ('a/x.jpg', 'b/x.jpg', 'b/y.jpg', 'b/y.png', 'z.jpg'):
        write(tmp_path / name, photo)
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
    write(tmp_path / 'b/y.png.jpg', photo)
    names = name_results(find_sources(tmp_path))
    assert len(set(names.values())) == len(names) == 7


def test_results_never_replace_an_input(segmentor, photo, tmp_path):
    path = write(tmp_path / 'labels/x.png', photo)
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


def test_the_overlay_shows_labels_and_a_legend_of_the_classes_present(segmentor, photo):
    (result,) = segmentor([photo])
    result.labels[:] = 4  # kite
    result.labels[:, 64:] = 1  # sand
    picture = result.overlay()
    assert picture.shape[0] == 640 and picture.shape[1] > 640  # enlarged by 5, the legend to the right
    legend = picture[:, 640:].reshape(-1, 3)
    for i, colour in enumerate(PALETTE):
        assert (legend == colour).all(axis=1).any() == (i in (1, 4)), CLASSES[i]
    expected = 0.6 * np.array(PALETTE[4]) + 0.4 * result.image[2, 2]
    assert np.abs(picture[12, 12] - expected).max() <= 1


def test_the_overlay_shows_masks(detector, photo):
    (result,) = detector([photo])
    picture = result.overlay()
    enlarged = result.image.repeat(5, 0).repeat(5, 1)
    assert picture.shape == enlarged.shape
    inside = result.masks.any(axis=0).repeat(5, 0).repeat(5, 1)
    assert (picture != enlarged).any(axis=2)[inside].mean() > 0.95


# The command line ------------------------------------------------------------------------------------------------------


def test_the_tool_writes_skips_counts_and_ends_well(run_tool, seg_checkpoint, photo, tmp_path):
    write(tmp_path / 'in/a b.png', photo)
    write(tmp_path / 'in/deep/a b.png', photo)
    (tmp_path / 'in/bad.jpg').write_bytes(b'hello')
    out = tmp_path / 'in/out'
    write(out / 'overlays/earlier.png', photo)  # a result is no image of the next run
    options = ('--device', 'cpu', '--batch-size', 2, '--score-thr', 0.5)
    done = run_tool('infer.py', SEGMENTOR, seg_checkpoint, tmp_path / 'in', '--out', out, *options)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith('skipped'))
    assert 'bad.jpg' in line
    assert '2 predicted, 1 skipped' in done.stdout
    assert '3/3' in done.stderr  # of the progress bar
    assert '--score-thr is for detectors' in done.stderr
    (out / 'overlays/earlier.png').unlink()
    for kind in ('labels', 'overlays'):
        found = {p.relative_to(out / kind).as_posix() for p in (out / kind).rglob('*') if p.is_file()}
        assert found == {'a b.png', 'deep/a b.png'}


def test_the_tool_fails_where_nothing_could_be_read(run_tool, seg_checkpoint, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'hello')
    done = run_tool('infer.py', SEGMENTOR, seg_checkpoint, tmp_path / 'bad.jpg', '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert '0 predicted, 1 skipped' in done.stdout
    assert done.stderr.splitlines()[-1].startswith('error: nothing in ')
    assert 'Traceback' not in done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_the_gpu_predicts_as_the_cpu(segmentor, seg_checkpoint, photo):
    (result,), (expected,) = Predictor(SEGMENTOR, seg_checkpoint, 'cuda:0')([photo]), segmentor([photo])
    assert (result.labels == expected.labels).mean() > 0.99
