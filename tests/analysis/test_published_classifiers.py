"""The table of published classifiers against the public logs, and against our backbones."""

import numpy as np
import pytest
import torch

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.analysis.published import BACKBONES
from mmtwins.analysis.published_classifiers import CLASSIFIERS, ClassifierRun

ARCHS = {'s': 'small', 'b': 'base', 'l': 'large'}
# train_lr of some epochs, from 0, in logs/svt_s.txt, svt_b.txt and so on.
LOGGED = {
    'svt-s': {0: 1e-6, 1: 1e-6, 2: 0.0004008, 5: 0.0016002, 6: 0.001998636387080776, 299: 1.0218219942528794e-05},
    'svt-b': {292: 1.2196827521475628e-05, 299: 1.0108561679951307e-05},
    'svt-l': {288: 1.4579818966635116e-05, 299: 1.0108561679951307e-05},
    'pcpvt-s': {288: 1.5736338907704675e-05, 299: 1.0135976245596009e-05},
    'pcpvt-b': {287: 1.5310195183320784e-05, 299: 1.0108561679951307e-05},
    'pcpvt-l': {298: 1.0244252618963046e-05, 299: 1.0108561679951307e-05},
}
each_run = pytest.mark.parametrize('run', CLASSIFIERS.values(), ids=lambda run: run.backbone)


def test_there_is_one_run_per_architecture() -> None:
    assert [run.backbone for run in CLASSIFIERS.values()] == list(BACKBONES)
    assert {run.batch for run in CLASSIFIERS.values()} == {1024}
    assert {run.log for run in CLASSIFIERS.values()} >= {'svt_s.txt', 'pcpvt_l.txt'}


@each_run
def test_rates_are_those_of_the_public_log(run: ClassifierRun) -> None:
    epochs = np.array(list(LOGGED[run.backbone]))
    np.testing.assert_allclose(run.learning_rates(epochs, run.log_rate), list(LOGGED[run.backbone].values()), rtol=1e-9)
    if run.log_rate == run.rate:
        assert (run.learning_rates(epochs) == run.learning_rates(epochs, run.log_rate)).all()


@each_run
def test_parameters_are_those_of_the_public_log(run: ClassifierRun) -> None:
    family, size = run.backbone.split('-')
    with torch.device('meta'):
        backbone = (TwinsSVTBackbone if family == 'svt' else TwinsPCPVTBackbone)(
            arch=ARCHS[size], out_indices=(3,), norm_after_stage=(False, False, False, True)
        )
    channels = backbone.norm_list[3].normalized_shape[0]
    assert sum(value.numel() for value in backbone.parameters()) + 1000 * (channels + 1) == run.log_parameters
    assert run.log_parameters / 1e6 == pytest.approx(run.parameters, abs=0.1)
