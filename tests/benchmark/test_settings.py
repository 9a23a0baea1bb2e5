"""Settings of whole models: which there are, and what they change."""

import copy
from pathlib import Path

import pytest
import torch
from small_recipes import DETECTOR, write_segmentor

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
from mmtwins.benchmark.real_batches import batches_of
from mmtwins.benchmark.settings import PLAIN, compare_scores, fuse_preprocessing, measure_settings, settings_for
from mmtwins.benchmark.whole_models import WholeStep, WholeTask


def test_settings_leave_the_scores_of_a_segmentor_equal_within_rounding(toy_data: Path, tmp_path: Path) -> None:
    task = WholeTask(str(write_segmentor(tmp_path)), 'inference', 64, 96, data_root=str(toy_data / 'ade'))
    effects = measure_settings(task, rounds=1)
    assert list(effects) == [
        PLAIN,
        'ChannelsLastHook',
        'fused batch norm',
        'fused pre-processing',
        'bf16',
        'bf16, ChannelsLastHook',
        'slide instead of whole',
    ]
    for name, effect in effects.items():
        assert len(effect.seconds) == 1
        if 'bf16' in name:
            assert 1e-4 < effect.difference < 0.1
        elif 'slide' in name:
            assert effect.difference > 1e-2
        else:
            assert effect.difference < 1e-5 and effect.equal > 0.999
    assert effects[PLAIN].difference == effects['fused pre-processing'].difference == 0


def test_some_settings_are_for_some_work() -> None:
    square = WholeTask('c', 'inference', 64, 64)
    assert 'slide instead of whole' not in settings_for(square, True)
    assert 'slide instead of whole' not in settings_for(WholeTask('c', 'inference', 64, 96), False)
    assert 'fused batch norm' not in settings_for(WholeTask('c', 'training', 64, 96), True)


@pytest.mark.slow
def test_a_detector_trains_and_is_compared_by_its_first_head(toy_data: Path) -> None:
    for work in ('training', 'inference'):
        task = WholeTask(str(DETECTOR), work, 64, 64, 2, data_root=str(toy_data / 'coco'))
        effects = measure_settings(task, rounds=1)
        differences = [effect.difference for effect in effects.values()]
        if work == 'training':
            assert differences == [None] * len(effects)
        else:
            assert differences[0] == 0 and max(differences[1:4]) < 1e-5 < differences[4]


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_fused_preprocessing_is_equal_to_the_bit(toy_data: Path, tmp_path: Path, kind: str, training: bool) -> None:
    config, data = (write_segmentor(tmp_path), 'ade') if kind == 'segmentor' else (DETECTOR, 'coco')
    work = 'training' if training else 'inference'
    task = WholeTask(str(config), work, 50, 64, 1, data_root=str(toy_data / data))
    cfg = task.load()
    (batch,) = batches_of(cfg, work, 1, 1)
    model = WholeStep(task, cfg, 'mmtwins').model
    expected = model.data_preprocessor(copy.deepcopy(batch), training)['inputs']
    fuse_preprocessing(model)
    assert torch.equal(model.data_preprocessor(copy.deepcopy(batch), training)['inputs'], expected)


def test_scores_are_compared_by_the_largest() -> None:
    plain = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    assert compare_scores([plain], [plain + torch.tensor([0.0, 2.0])]) == (0.5, 1.0)
    assert compare_scores([plain], [plain.flip(0)]) == (1.0, 0.0)
    assert compare_scores([plain[None]], [plain[None]]) == (0.0, None)
