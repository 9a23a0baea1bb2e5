"""Points of an image file find their tokens, whatever the test pipeline does to the image."""

import numpy as np
import pytest
from toys import SEGMENTOR, TOYS

for package in ('mmseg', 'mmdet', 'mmcv._ext'):
    pytest.importorskip(package)

from mmtwins.analysis.inspection import inspect_image  # noqa: E402
from mmtwins.inference.inferencers import load_inferencer  # noqa: E402


def picture_with_a_bright_pixel(height, width, x, y):
    image = np.zeros((height, width, 3), np.uint8)
    image[y, x] = 255
    return image


@pytest.mark.parametrize(
    ('library', 'options', 'scale', 'input_size'),
    [
        ('mmseg', {}, (1, 1), (96, 150)),
        # Resized to twice the size, then padded to multiples of 32 below and on the right.
        (
            'mmseg',
            {
                'model.data_preprocessor.test_cfg': dict(size_divisor=32),
                'test_dataloader.dataset.pipeline': [
                    dict(type='LoadImageFromFile'),
                    dict(type='Resize', scale=(300, 192), keep_ratio=False),
                    dict(type='PackSegInputs'),
                ],
            },
            (2, 2),
            (192, 320),
        ),
        # keep_ratio into 128 x 128, and MMDetection's padding to multiples of 32.
        ('mmdet', {}, (128 / 150, 82 / 96), (96, 128)),
    ],
)
def test_points_of_the_image_find_their_tokens(toy_checkpoints, library, options, scale, input_size):
    """The one bright pixel of the image is in the token that the point is said to be in."""
    inferencer = load_inferencer(TOYS[library], toy_checkpoints[library], 'cpu', options)
    seen = []
    backbone = inferencer.model.backbone
    backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for x, y in ((0, 0), (147, 0), (71, 52), (127, 94)):
        image = picture_with_a_bright_pixel(96, 150, x, y)
        inspection = inspect_image(inferencer, image, [(x, y)], stages=[1], blocks=[1], rollout=True)
        assert inspection.input_size == input_size == tuple(seen[-1].shape[2:])
        np.testing.assert_allclose(inspection.scale, scale, rtol=1e-6)
        np.testing.assert_array_equal(inspection.image, image[..., ::-1])
        height, width = (round(side * factor) for side, factor in zip((96, 150), scale[::-1]))
        brightness = seen[-1][0].sum(dim=0)[:height, :width]
        row, column = divmod(int(brightness.argmax()), width)
        assert inspection.maps[0].token == inspection.rollouts[0].token == (row // 4, column // 4)
        assert (
            inspection.rollouts[0].shares.argmax() == (row // 4 * input_size[1] + column // 4) * 4
        )  # half stays twice
        assert {stage: f.shape[0] for stage, f in inspection.features.items()} == {1: 32, 2: 64, 3: 128, 4: 192}


def test_errors_of_images_and_pipelines(toy_checkpoints, tmp_path):
    inferencer = load_inferencer(SEGMENTOR, toy_checkpoints['mmseg'], 'cpu')
    image = np.zeros((96, 128, 3), np.uint8)
    for point in ((128, 5), (5, 96), (-1, 5)):
        with pytest.raises(
            ValueError, match='is outside the image of 128 x 96 pixels: x goes from 0 to 127, y from 0 to 95'
        ):
            inspect_image(inferencer, image, [(3, 3), point])
    with pytest.raises(FileNotFoundError, match=r'none\.jpg does not exist'):
        inspect_image(inferencer, tmp_path / 'none.jpg', [(3, 3)])
    with pytest.raises(FileNotFoundError, match='is a folder: name its images'):
        inspect_image(inferencer, tmp_path, [(3, 3)])
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'text\.jpg cannot be read'):
        inspect_image(inferencer, tmp_path / 'text.jpg', [(3, 3)])
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackSegInputs')
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=False)
    for steps, message in (
        ([load, dict(type='RandomFlip', prob=1.0), pack], 'crops or flips'),
        ([load, resize, dict(type='RandomCrop', crop_size=(32, 32)), pack], 'crops or flips'),
        (
            [load, resize, dict(pack, meta_keys=('img_path', 'ori_shape', 'img_shape'))],
            'have scale_factor in meta_keys',
        ),
    ):
        inferencer = load_inferencer(
            SEGMENTOR, toy_checkpoints['mmseg'], 'cpu', {'test_dataloader.dataset.pipeline': steps}
        )
        with pytest.raises(ValueError, match=message):
            inspect_image(inferencer, image, [(3, 3)])
