"""The data pipeline of the ImageNet-1k recipes beside timm's, which the public code uses; needs mmpretrain and timm."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from classification import need_mmpretrain
from mmengine.registry import TRANSFORMS, DefaultScope
from PIL import Image, ImageFilter

from mmtwins.engine.config import load_config

(RECIPE,) = (Path(__file__).parents[2] / 'configs' / 'imagenet').glob('twins-svt-s_*.py')
# Names of timm's operations, in the order of mmpretrain's.
NAMES = ['AutoContrast', 'Equalize', 'Invert', 'Rotate', 'PosterizeIncreasing', 'SolarizeIncreasing', 'SolarizeAdd']
NAMES += [f'{name}Increasing' for name in ('Color', 'Contrast', 'Brightness', 'Sharpness')]
NAMES += ['ShearX', 'ShearY', 'TranslateXRel', 'TranslateYRel']
MEAN = (124, 116, 104)  # RGB
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def picture() -> np.ndarray:
    """Smooth noise, (120, 160, 3) RGB."""
    noise = np.random.RandomState(0).randint(0, 256, (120, 160, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(4)).point(lambda v: (v - 128) * 5 + 128))


@pytest.fixture(scope='module')
def pipelines() -> dict[str, list]:
    """The transforms of training and test."""
    need_mmpretrain()
    cfg = load_config(str(RECIPE))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return {
            split: [TRANSFORMS.build({'_scope_': 'mmpretrain', **step}) for step in cfg[f'{split}_pipeline']]
            for split in ('train', 'test')
        }


def applied(transform: Callable, image: np.ndarray) -> np.ndarray:
    """What a transform of mmpretrain makes of an RGB image."""
    results = transform(dict(img=image[..., ::-1].copy(), img_shape=image.shape[:2]))
    return results['img'][..., ::-1]


@pytest.mark.parametrize('index', range(len(NAMES)), ids=NAMES)
def test_each_operation_of_randaugment_is_as_strong_as_that_of_timm(
    index: int, pipelines: dict, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm = pytest.importorskip('timm.data.auto_augment')
    augment = pipelines['train'][4]
    assert len(augment.transforms) == len(NAMES) == len(timm._RAND_INCREASING_TRANSFORMS)
    ours = augment.transforms[index]
    assert ours.prob == 0.5
    monkeypatch.setattr(ours, 'prob', 1.0)
    if NAMES[index] == 'SharpnessIncreasing':  # which does little to a smooth picture
        picture = np.random.RandomState(2).randint(0, 256, (120, 160, 3)).astype(np.uint8)
    given, wanted = [], []
    for negative in (0.0, 1.0):
        if hasattr(ours, 'random_negative_prob'):
            monkeypatch.setattr(ours, 'random_negative_prob', negative)
        monkeypatch.setattr(ours, 'magnitude_std', 0.0)
        monkeypatch.setattr(random, 'random', lambda negative=negative: negative)
        hparams = dict(img_mean=MEAN, interpolation=Image.BICUBIC)
        theirs = timm.AugmentOp(NAMES[index], prob=1.0, magnitude=9, hparams=hparams)
        wanted.append(np.asarray(theirs(Image.fromarray(picture))).astype(float))
        given.append(applied(ours, picture).astype(float))
    change = np.abs(np.array(wanted) - picture).mean()
    # Both directions have the same chance; which one is positive does not matter.
    difference = min(np.abs(np.array(pair) - wanted).mean() for pair in (given, given[::-1]))
    assert change > 5
    assert difference < 0.1 * change


def test_a_test_image_is_that_of_the_public_code(pipelines: dict, tmp_path: Path) -> None:
    """Short side 256 with Pillow, centre 224: the steps of torchvision 0.8, written out; an EXIF mark is ignored."""
    noise = np.random.RandomState(1).randint(0, 256, (301, 403, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(noise).save(tmp_path / 'a.jpg', exif=exif)
    image = Image.open(tmp_path / 'a.jpg').convert('RGB')
    resized = image.resize((int(256 * 403 / 301), 256), Image.BICUBIC)
    left, top = round((resized.width - 224) / 2), round((256 - 224) / 2)
    wanted = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    results = dict(img_path=str(tmp_path / 'a.jpg'), gt_label=0)
    for step in pipelines['test']:
        results = step(results)
    assert np.array_equal(results['inputs'].numpy()[::-1].transpose(1, 2, 0), wanted)


def test_erased_pixels_have_the_mean_and_spread_of_the_images(pipelines: dict) -> None:
    erase = pipelines['train'][5]
    np.random.seed(0)
    image = np.full((224, 224, 3), 7, np.uint8)
    erased, areas = [], []
    for _ in range(400):
        found = applied(erase, image)
        changed = (found != 7).any(2)
        areas.append(changed.mean())
        erased.append(found[changed].reshape(-1, 3))
    assert np.mean(np.array(areas) > 0) == pytest.approx(0.25, abs=0.05)
    inside = np.array([area for area in areas if area > 0])
    assert inside.min() > 0.015 and inside.max() < 0.35
    pixels = np.concatenate(erased)
    np.testing.assert_allclose(pixels.mean(0), MEAN, atol=3)
    np.testing.assert_allclose(pixels.std(0), (58.4, 57.1, 57.4), atol=4)  # clipping takes a little
