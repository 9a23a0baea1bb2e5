"""Predictions for images: what is read, what comes out, and which models will do."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, DefaultScope
from pictures import write_image
from toys import DETECTOR, SEGMENTOR, save_toy_checkpoint

import mmtwins
from mmtwins.demo.scenes import CLASSES, PALETTE, THING_CLASSES
from mmtwins.engine.config import load_config

pytest.importorskip('mmcv._ext')
cv2 = pytest.importorskip('cv2')

from mmtwins.inference.predictor import Predictor  # noqa: E402
from mmtwins.inference.sources import find_sources  # noqa: E402


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


def test_classes_come_from_the_checkpoint_else_from_the_config(segmentor, detector, tmp_path):
    assert segmentor.info.classes == CLASSES and segmentor.info.palette == PALETTE
    assert segmentor.info.reduce_zero_label
    assert detector.info.classes == THING_CLASSES and detector.info.palette == PALETTE[3:]
    names = tuple(f'class {i}' for i in range(9))
    noted = save_toy_checkpoint('mmseg', tmp_path / 'old.pth', dict(CLASSES=names, PALETTE=None))
    assert Predictor(SEGMENTOR, noted, 'cpu').info.classes == names


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
    write_image(tmp_path / 'b.png', photo)
    write_image(tmp_path / 'a/c.jpg', photo)
    results = mmtwins.infer(SEGMENTOR, seg_checkpoint, tmp_path, device='cpu')
    assert next(results).path == str(tmp_path / 'a/c.jpg')
    results = mmtwins.infer(str(SEGMENTOR), str(seg_checkpoint), [photo, f'{tmp_path}/*.png'], device='cpu')
    assert [result.path for result in results] == [None, str(tmp_path / 'b.png')]


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
    (result,) = segmentor(find_sources(write_image(tmp_path / name, change(photo))))
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
    good = write_image(tmp_path / 'good.png', photo)
    whole = Path(write_image(tmp_path / 'whole.jpg', photo)).read_bytes()
    bad = {
        'cut.jpg': whole[: len(whole) // 2],
        'empty.jpg': b'',
        'text.png': b'hello',
        'video.mp4': b'hello',
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    tiny = write_image(tmp_path / 'tiny.png', photo[:20, :40])
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


def test_checkpoints_that_do_not_fit_are_refused(seg_checkpoint, det_checkpoint, tmp_path):
    other = save_toy_checkpoint(
        'mmseg', tmp_path / 'o.pth', **{'model.decode_head.num_classes': 5, 'model.auxiliary_head.num_classes': 5}
    )
    backbone = tmp_path / 'backbone.pth'
    weights = torch.load(seg_checkpoint)['state_dict']
    torch.save({k: v for k, v in weights.items() if k.startswith('backbone.')}, backbone)
    foreign = tmp_path / 'foreign.pth'
    torch.save({'conv1.weight': torch.zeros(3)}, foreign)
    wrong_names = save_toy_checkpoint('mmseg', tmp_path / 'n.pth', dict(dataset_meta=dict(classes=('a', 'b'))))
    for checkpoint, message in (
        (other, '5 outputs in the checkpoint, 9 in the model'),
        (backbone, 'decode_head: not in the checkpoint'),
        (foreign, 'no Twins backbone'),
        (det_checkpoint, 'mmdet.pth'),
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_the_gpu_predicts_as_the_cpu(segmentor, seg_checkpoint, photo):
    (result,), (expected,) = Predictor(SEGMENTOR, seg_checkpoint, 'cuda:0')([photo]), segmentor([photo])
    assert (result.labels == expected.labels).mean() > 0.99
