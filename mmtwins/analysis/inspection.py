"""What a trained model makes of an image file: attention of chosen points and features, in pixels of the image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch

from .attention_maps import AttentionMap, capture_attention, find_backbone
from .attention_rollout import Rollout, roll_out


class Inspection(NamedTuple):
    """An image and what the backbone makes of it.

    Args:
        image: (H, W, 3) RGB uint8, as in the file.
        maps: As :func:`capture_attention` yields them.
        features: Stage, counted from 1: its output, (C_i, H_i, W_i), for the stages that the backbone returns.
        input_size: Height and width of the network's input, in pixels; what lies beyond the resized image is padding.
        scale: Pixels of the network's input per pixel of the image, along x and y.
        rollouts: As :func:`roll_out` returns them, or none.
    """

    image: np.ndarray
    maps: list[AttentionMap]
    features: dict[int, np.ndarray]
    input_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    rollouts: Sequence[Rollout] = ()


@torch.no_grad()
def inspect_image(
    inferencer: Any,
    image: str | Path | np.ndarray,
    points: Sequence[tuple[int, int]],
    stages: Sequence[int] | None = None,
    blocks: Sequence[int] | str = 'last',
    rollout: bool = False,
) -> Inspection:
    """Run a model's backbone on an image, prepared by the config's test pipeline, and see what points attend to.

    Args:
        inferencer: ``MMSegInferencer`` or ``DetInferencer``, see :func:`mmtwins.inference.inferencers.load_inferencer`.
        image: File, or (H, W, 3) BGR uint8 as OpenCV reads it.
        points: (x, y) in pixels of the image.
        stages: See :func:`capture_attention`.
        blocks: See :func:`capture_attention`.
        rollout: Whether to compute the attention rollout of the points, too; it starts from the output of each stage.

    Returns:
        Image, maps, features and rollouts.

    Raises:
        ValueError: The image cannot be read, a point is outside, or the test pipeline crops or flips.
    """
    picture = image if isinstance(image, np.ndarray) else _read_image(image)
    height, width = picture.shape[:2]
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f'point {x} {y} is outside the image of {width} x {height} pixels: x goes from 0 to {width - 1}, y '
                f'from 0 to {height - 1}'
            )
    batch = next(iter(inferencer.preprocess([image if isinstance(image, np.ndarray) else str(image)])))
    if not isinstance(batch, dict):
        batch = batch[1]  # DetInferencer gives (inputs, batch)
    data = inferencer.model.data_preprocessor(batch, False)
    scale = _scale_of(data['data_samples'][0].metainfo, (height, width))
    backbone = find_backbone(inferencer.model)
    # The point is the centre of its pixel.
    moved = [((x + 0.5) * scale[0], (y + 0.5) * scale[1]) for x, y in points]
    with capture_attention(backbone, moved, stages, blocks) as maps:
        features = backbone(data['inputs'])
    rollouts = roll_out(backbone, data['inputs'], moved, stages) if rollout else ()
    return Inspection(
        np.ascontiguousarray(picture[..., ::-1]),
        maps,
        {index + 1: feature[0].float().cpu().numpy() for index, feature in zip(backbone.out_indices, features)},
        tuple(data['inputs'].shape[2:]),
        scale,
        rollouts,
    )


def _read_image(path: str | Path) -> np.ndarray:
    if not Path(path).is_file():
        what = 'is a folder: name its images' if Path(path).is_dir() else 'does not exist'
        raise FileNotFoundError(f'image {path} {what}')
    try:
        picture = mmcv.imread(str(path))
    except Exception as error:  # a damaged file fails anywhere in the decoder
        raise ValueError(f'image {path} cannot be read: {error}') from None
    if picture is None:
        raise ValueError(f'image {path} cannot be read: it is damaged or no image')
    return picture


def _scale_of(metainfo: dict, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the network's input per pixel of the image along x and y, from what a test pipeline noted."""
    if tuple(metainfo['ori_shape'][:2]) != size:
        raise ValueError(f'the test pipeline loads the image as {metainfo["ori_shape"]}, not as {size}')
    shape = metainfo['img_shape'][:2]
    scale = metainfo.get('scale_factor')
    if scale is None and tuple(shape) != size:
        raise ValueError(
            f'the test pipeline makes {shape} of {size} pixels without noting how: let it resize without cropping, and '
            'have scale_factor in meta_keys of its last step'
        )
    scale = (1.0, 1.0) if scale is None else (float(scale[0]), float(scale[1]))
    resized = (round(size[0] * scale[1]), round(size[1] * scale[0]))
    if metainfo.get('flip') or any(found < wanted for found, wanted in zip(shape, resized)):
        raise ValueError('the test pipeline crops or flips the image, so no token can be named for a point')
    return scale
