"""What a trial replaces in MMCV and MMDetection, because it would fail there with any backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from unittest import mock

import torch.nn.functional as F
from torch import Tensor


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let CARAFE run on a CPU, and SSD predict.

    MMCV's CARAFE has no code for CPUs. MMDetection 3.3.0 asks each dense head for ``loss_cls`` when it predicts, and its
    ``SSDHead`` has none (its issue 11063).
    """
    from mmdet.models.dense_heads import SSDHead

    carafe = import_module('mmcv.ops.carafe')  # mmcv.ops has a function of this name
    with mock.patch.object(carafe, 'carafe', reassemble), mock.patch.object(SSDHead, 'loss_cls', None, create=True):
        yield


def reassemble(features: Tensor, masks: Tensor, kernel_size: int, groups: int, scale: int) -> Tensor:
    """Compute what ``mmcv.ops.carafe`` computes: each pixel is a weighted sum of the neighbours of its source.

    Args:
        features: (B, C, H, W).
        masks: Weights of the neighbours, (B, groups * kernel_size**2, scale * H, scale * W).
        kernel_size: Side of the square of neighbours, odd.
        groups: Groups of channels that share weights.
        scale: How many times larger the result is.

    Returns:
        (B, C, scale * H, scale * W).

    Source: equation 4 of CARAFE, https://arxiv.org/abs/1905.02188.
    """
    b, c, h, w = features.shape
    neighbours = F.unfold(features, kernel_size, padding=kernel_size // 2).view(b, -1, h, w)
    neighbours = F.interpolate(neighbours, scale_factor=scale, mode='nearest')
    neighbours = neighbours.view(b, groups, c // groups, kernel_size**2, scale * h, scale * w)
    return (neighbours * masks.view(b, groups, 1, kernel_size**2, scale * h, scale * w)).sum(3).flatten(1, 2)
