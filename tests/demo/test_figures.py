"""Predictions of the demo's models."""

import numpy as np
import pytest
from toys import TOYS

from mmtwins.demo.figures import predict_examples
from mmtwins.figures.examples import Instances

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


@pytest.mark.parametrize(('library', 'folder'), [('mmseg', 'ade'), ('mmdet', 'coco')])
def test_examples_are_those_of_the_validation_set(library, folder, toy_data, toy_checkpoints) -> None:
    options = dict(data_root=str(toy_data / folder))
    examples, classes, palette = predict_examples(
        TOYS[library], toy_checkpoints[library], 3, min_score=0.0, cfg_options=options
    )
    assert len(examples) == 3 and len(classes) == len(palette) == (9 if library == 'mmseg' else 6)
    for example in examples:
        assert example.image.shape == (128, 128, 3)
        if library == 'mmseg':
            assert example.truth.shape == example.prediction.shape == (128, 128)
            assert set(np.unique(example.truth)) <= {*range(9), 255}
        else:
            assert isinstance(example.truth, Instances) and example.truth.scores is None
            assert example.prediction.masks.shape[1:] == example.truth.masks.shape[1:] == (128, 128)
            assert len(example.prediction.scores) == len(example.prediction.labels) == len(example.prediction.masks)
