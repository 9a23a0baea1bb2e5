"""Classifiers through the tools on generated images: trained, tested, and used as the start of a segmentor."""

import json
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from classification import ARCH, CLASSES, load_tiny, need_mmpretrain, write_images
from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
RECIPES = sorted((CONFIGS / 'imagenet').glob('*.py'))
CallTool = Callable[..., subprocess.CompletedProcess]
# One in `make test`, the rest in `make test-all`.
each_recipe = pytest.mark.parametrize(
    'recipe',
    [
        pytest.param(path, marks=[] if 'svt-s_' in path.name and 'pcpvt' not in path.name else pytest.mark.slow)
        for path in RECIPES
    ],
    ids=lambda path: path.stem,
)


@each_recipe
def test_a_recipe_trains_is_evaluated_and_starts_a_segmentor(recipe: Path, call_tool: CallTool, tmp_path: Path) -> None:
    need_mmpretrain()
    cfg = load_tiny(recipe, write_images(tmp_path / 'images'), epochs=2)
    cfg.dump(tmp_path / 'tiny.py')
    result = call_tool('train.py', tmp_path / 'tiny.py', '--work-dir', tmp_path / 'work')
    assert result.returncode == 0, result.stderr
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    rates = re.findall(r'Epoch\(train\)\s+\[(\d)\]\[(\d)/3\].* lr: ([\d.e-]+)', log)
    assert rates == [(epoch, step, '1.0000e-06') for epoch in '12' for step in '123']
    assert len(re.findall(r'accuracy/top1: \d', log)) == 2
    (best,) = (tmp_path / 'work').glob('best_accuracy_top1_epoch_*.pth')
    assert f'mmtwins predict {tmp_path / "work" / "tiny.py"}' in result.stdout

    checkpoint = tmp_path / 'work' / 'epoch_2.pth'
    out = ['--out', tmp_path / 'out.pkl', '--show-dir', tmp_path / 'painted']
    result = call_tool('test.py', tmp_path / 'tiny.py', checkpoint, '--work-dir', tmp_path / 'tested', *out)
    assert result.returncode == 0, result.stderr
    accuracy = float(re.search(r'accuracy/top1: ([\d.]+)', result.stdout + result.stderr)[1])
    with open(tmp_path / 'out.pkl', 'rb') as file:
        predictions = pickle.load(file)
    right = sum(int(one['pred_label']) == int(one['gt_label']) for one in predictions)
    assert accuracy == pytest.approx(100 * right / len(predictions), abs=1e-3) and len(predictions) == 2 * len(CLASSES)
    assert len(list((tmp_path / 'painted').rglob('*'))) >= len(predictions)

    check_predictions(call_tool, tmp_path, checkpoint, predictions)
    check_segmentor(cfg, best)


def check_predictions(call_tool: CallTool, folder: Path, checkpoint: Path, tested: list[dict]) -> None:
    """`mmtwins predict` prints and writes the classes of the test; what is no image is skipped, other commands refuse."""
    (folder / 'images' / 'val' / 'notes.jpg').write_text('no image')
    given = [folder / 'tiny.py', checkpoint, folder / 'images' / 'val']
    result = call_tool('infer.py', *given, '--out', folder / 'found', '--batch-size', '4')
    assert result.returncode == 0, result.stderr
    found = json.loads((folder / 'found' / 'predictions.json').read_text())
    by_path = {one['img_path']: one for one in tested}
    assert [one['path'] for one in found] == sorted(by_path)
    for one in found:
        other = by_path[one['path']]
        assert (one['label'], one['name']) == (int(other['pred_label']), CLASSES[one['label']])
        assert one['score'] == pytest.approx(float(other['pred_score'].max()), abs=1e-5)
        assert f'{one["path"]}: {one["name"]} ({one["score"]:.3f})' in result.stdout
    assert f'{len(found)} predicted, 1 skipped' in result.stdout and 'skipped' in result.stderr
    assert 'notes.jpg' in result.stderr
    result = call_tool('app.py', folder / 'tiny.py', checkpoint)
    assert (
        result.returncode == 1 and 'is a classifier, which `mmtwins predict` and `mmtwins test` take' in result.stderr
    )


def check_segmentor(cfg: Config, checkpoint: Path) -> None:
    """A segmentor whose ``init_cfg`` names a trained classifier has its backbone's weights, and stage norms of its own."""
    pytest.importorskip('mmseg')
    from mmtwins.engine.config import load_config
    from mmtwins.engine.model import build_model
    from mmtwins.weights.loading import load_safely

    family = 'svt' if 'SVT' in cfg.model.backbone.type else 'pcpvt'
    (path,) = (CONFIGS / 'ade20k').glob(f'fpn_twins-{family}-s_*.py')
    segmentor = load_config(str(path))
    segmentor.model.backbone.update(arch=ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    segmentor.model.neck.in_channels = list(ARCH['embed_dims'])
    model = build_model(segmentor)
    model.init_weights()
    trained = load_safely(str(checkpoint))['state_dict']
    weights = model.backbone.state_dict()
    for name, value in weights.items():
        if name.startswith('norm_list.'):
            assert torch.equal(value, torch.full_like(value, float(name.endswith('weight'))))
        else:
            assert torch.equal(value, trained[f'backbone.{name}']), name
    assert {name.removeprefix('backbone.') for name in trained} - set(weights) <= {
        'head.fc.weight', 'head.fc.bias', 'norm_list.3.weight', 'norm_list.3.bias'
    }  # fmt: skip


def test_mixed_precision_needs_a_gpu_and_float32_is_an_option_away(call_tool: CallTool, tmp_path: Path) -> None:
    need_mmpretrain()
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    write_images(tmp_path / 'images')
    result = call_tool('train.py', RECIPES[0], '--cfg-options', f'data_root={tmp_path / "images"}')
    assert result.returncode == 1
    remedy = 'needs a GPU: .*; --cfg-options optim_wrapper.type=OptimWrapper trains in float32'
    assert re.search(remedy, result.stderr)
    result = call_tool('train.py', RECIPES[0], '--cfg-options', 'optim_wrapper.type=OptimWrapper', 'data_root=nowhere')
    assert 'the train data set needs nowhere/train, which does not exist' in result.stderr
