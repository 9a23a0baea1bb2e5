"""Run the model for the page: one request at a time, and errors as sentences for the user."""

import threading
import time
import warnings
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..analysis.attention_maps import find_backbone
from ..analysis.inspection import Inspection, inspect_image
from ..inference.predictor import Predictor
from ..inference.writers import ResultWriter
from ..models.attention import LocallyGroupedSelfAttention
from .kept import KeptResult

MAX_PIXELS = 2**25  # of an image: a small file can hold a very large image
LOWEST_SCORE = 0.05  # of an instance that is kept, so that the threshold can be lowered without another forward pass


class Prediction(NamedTuple):
    """A prediction for an image.

    Attributes:
        kept: The prediction.
        seconds: Time that it took, without waiting for other users.
        note: What the reader warned of, such as a damaged file; empty if there is nothing.
    """

    kept: KeptResult
    seconds: float
    note: str


class Model:
    """A predictor for several users at once.

    Args:
        predictor: The model. Its ``score_thr`` is the score threshold that the page starts with.

    Attributes:
        threshold: Score threshold that the page starts with, 0 to 1.
        lowest: Lowest score threshold that can be chosen, 0 to 1.
        info: Classes and colours.
        is_detector: Whether it predicts instances.
        stages: Number of heads by kind of attention (``'LSA'``, ``'GSA'``), for each stage; empty without a Twins backbone.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.threshold = predictor.score_thr
        self.lowest = min(LOWEST_SCORE, self.threshold)
        self.info, self.is_detector = predictor.info, predictor.is_detector
        self._predictor = copy(predictor)
        self._predictor.score_thr = self.lowest
        self._lock = threading.Lock()
        self.stages: list[dict[str, int]] = []
        try:
            blocks: Any = find_backbone(predictor.inferencer.model).blocks
        except ValueError:
            return
        for stage in blocks:
            kinds = {}
            for block in stage:
                kinds['LSA' if isinstance(block.attn, LocallyGroupedSelfAttention) else 'GSA'] = block.attn.num_heads
            self.stages.append(kinds)

    def predict(self, path: str | Path) -> Prediction:
        """Predict on an image file.

        Args:
            path: The file.

        Returns:
            The prediction.

        Raises:
            ValueError: It is no image, has more than ``MAX_PIXELS`` pixels, or is too small for the model.
        """
        path = str(path)
        _check_size(path)
        reasons: list[str] = []
        with self._lock:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter('always')
                image = self._predictor.read(path)
            start = time.perf_counter()
            for result in self._predictor([image], on_skip=lambda name, reason: reasons.append(reason)):
                seconds = time.perf_counter() - start
                notes = [str(one.message).removeprefix(f'{path} ') for one in caught if path in str(one.message)]
                return Prediction(KeptResult(replace(result, path=path)), seconds, ' '.join(notes))
        raise ValueError(reasons[0])

    def inspect(self, kept: KeptResult, x: int, y: int) -> Inspection:
        """Run the backbone, and record what a point attends to in every stage.

        Args:
            kept: A prediction.
            x: Column of the point, in pixels of the image.
            y: Row of the point, in pixels of the image.

        Returns:
            The attention maps of the point.

        Raises:
            ValueError: The point is outside the image.
        """
        with self._lock:
            found = inspect_image(self._predictor.inferencer, np.ascontiguousarray(kept.image[..., ::-1]), [(x, y)])
        return found._replace(features={})


def write_files(
    kept: KeptResult, threshold: float, palette: tuple[tuple[int, int, int], ...], folder: Path
) -> dict[str, str]:
    """Write the files that ``mmtwins predict`` writes for an image.

    Args:
        kept: The prediction.
        threshold: Instances with a lower score are left out.
        palette: RGB colour of each class, for the overlay.
        folder: Empty folder to write.

    Returns:
        Files by kind, named after the image: ``overlay``; for a segmentation ``labels`` and ``json`` (its classes); for a
        detection ``json`` (COCO's results) and ``images`` (images and categories of the results).
    """
    assert kept.path is not None
    result = kept.restore(threshold, palette)
    with ResultWriter(folder, [kept.path], kept.info, not kept.is_segmentation) as writer:
        writer.add(result)
        name = writer.names[kept.path]
    made = {'overlay': (f'overlays/{name}.png', 'overlay.png')}
    if kept.is_segmentation:
        made |= {'labels': (f'labels/{name}.png', 'labels.png'), 'json': ('classes.json', 'classes.json')}
    else:
        made |= {
            'json': ('coco_results.json', 'coco_results.json'),
            'images': ('coco_images.json', 'coco_images.json'),
        }
    stem = Path(kept.path).stem[:80]
    return {what: str((folder / old).rename(folder / f'{stem}_{new}')) for what, (old, new) in made.items()}


def _check_size(path: str) -> None:
    """Raise ValueError for a file that is no image, or has too many pixels."""
    if not Path(path).is_file():
        raise ValueError('the image is no longer here: choose it again')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PIL warns of many pixels
            with Image.open(path) as image:
                width, height = image.size
    except Exception:  # a damaged file fails anywhere in a decoder
        raise ValueError('this file is no image, or it is damaged: choose another one') from None
    if width * height > MAX_PIXELS:
        raise ValueError(
            f'{width} x {height} pixels are too many: make the image smaller, at most {MAX_PIXELS:,} pixels'
        )
