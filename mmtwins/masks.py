"""Masks in COCO's run-length code."""

import numpy as np
from pycocotools.mask import encode


def encode_mask(mask: np.ndarray) -> dict:
    """Encode a mask as COCO's files have it.

    Args:
        mask: (H, W) bool.

    Returns:
        ``size``, (H, W), and ``counts``, the compressed run lengths as text.

    Source: ``pycocotools.mask``.
    """
    code = encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=list(map(int, code['size'])), counts=code['counts'].decode())
