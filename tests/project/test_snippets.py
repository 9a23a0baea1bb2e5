"""What README and docs show in Python runs: configs train for two iterations and predict, scripts do what they say."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from mmseg.structures import SegDataSample
from toys import DETECTOR, SEGMENTOR

from mmtwins import TwinsSVTBackbone
from mmtwins.engine.model import build_model
from mmtwins.models.architectures import ARCHITECTURES

REPOSITORY = Path(__file__).parents[2]
SIDE = 64  # pixels


def snippets(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (REPOSITORY / page).read_text(), re.DOTALL)


CONFIGS = [snippet for snippet in snippets('README.md') if 'model = dict(' in snippet]


def seg_batch(classes: int) -> dict[str, Any]:
    from mmengine.structures import PixelData

    samples = []
    for _ in range(2):
        labels = PixelData(data=torch.randint(0, classes, (1, SIDE, SIDE)))
        samples.append(SegDataSample(gt_sem_seg=labels, metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE))))
    return dict(inputs=[torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)] * 2, data_samples=samples)


def det_batch() -> dict[str, Any]:
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    samples = []
    for _ in range(2):
        meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0), img_id=1)
        found = InstanceData(bboxes=torch.tensor([[5.0, 5.0, 40.0, 50.0]]), labels=torch.tensor([3]))
        samples.append(
            DetDataSample(
                gt_instances=found,
                ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
                metainfo=meta,
            )
        )
    return dict(inputs=[torch.randint(0, 255, (3, SIDE, SIDE), dtype=torch.uint8)] * 2, data_samples=samples)


@pytest.mark.parametrize('snippet', CONFIGS, ids=['mmseg', 'mmdet', 'lazy'])
def test_a_config_of_the_readme_trains_and_predicts(snippet: str, tmp_path: Path) -> None:
    (tmp_path / 'config.py').write_text(snippet)
    cfg = Config.fromfile(tmp_path / 'config.py')
    model_cfg = cfg.model
    model_cfg.backbone.pop('init_cfg', None)  # nothing is fetched here
    model_cfg.backbone.arch = {**ARCHITECTURES[model_cfg.backbone.arch], 'depths': (2, 1, 1, 1)}
    assert 'resnet' not in str(model_cfg.get('pretrained'))
    if model_cfg.data_preprocessor.get('size'):
        model_cfg.data_preprocessor.size = (SIDE, SIDE)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = revert_sync_batchnorm(build_model(cfg)).train()
        wrapper = cfg.get('optim_wrapper') or dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=6e-5))
        optimizer = build_optim_wrapper(model, wrapper)
        assert isinstance(optimizer.optimizer, torch.optim.AdamW)
        assert optimizer.optimizer.defaults['lr'] < 1e-3
        batch = det_batch() if cfg.default_scope == 'mmdet' else seg_batch(model.decode_head.num_classes)
        before = {name: weight.detach().clone() for name, weight in model.backbone.named_parameters()}
        for _ in range(2):
            losses = model.train_step(batch, optimizer)
            assert all(np.isfinite(float(loss)) for loss in losses.values())
        after = dict(model.backbone.named_parameters())
        assert all(not torch.equal(after[name], value) for name, value in before.items() if name.endswith('qkv.weight'))
        with torch.no_grad():
            (first, _) = model.eval().test_step(batch)
    if cfg.default_scope == 'mmseg':
        assert first.pred_sem_seg.data.shape == (1, SIDE, SIDE)
    else:
        assert first.pred_instances.bboxes.shape[1] == 4


def test_the_rate_of_the_mmseg_config_falls() -> None:
    """mmseg's base ends at 1e-4, which is more than the rate of AdamW."""
    schedule = re.findall(r"dict\(type='PolyLR'.*?\)", CONFIGS[0])
    assert len(schedule) == 1 and 'eta_min=0.0' in schedule[0]


@pytest.mark.parametrize(
    ('page', 'library'),
    [(f'docs/{page}.md', library) for page in ('attention', 'gsa', 'performance') for library in ('mmseg',)]
    + [('docs/inference.md', 'mmseg'), ('docs/inference.md', 'mmdet')],
)
def test_scripts_run(
    page: str, library: str, toy_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mmtwins

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').mkdir()
    picture = np.random.RandomState(0).randint(0, 255, (192, 224, 3), np.uint8)
    for name in ('image.jpg', 'photos/a.jpg'):
        cv2.imwrite(str(tmp_path / name), picture)
    config, checkpoint = str(dict(mmseg=SEGMENTOR, mmdet=DETECTOR)[library]), str(toy_checkpoints[library])
    scope: dict[str, Any] = dict(
        mmtwins=mmtwins, config=config, checkpoint=checkpoint, CONFIG=config, CHECKPOINT=checkpoint,
        model=TwinsSVTBackbone(arch='small').eval(), images=torch.randn(1, 3, 192, 224),
    )  # fmt: skip
    found = [snippet for snippet in snippets(page) if 'pycocotools' not in snippet]
    assert found
    for snippet in found:
        exec(snippet, scope)
    for name, kind in dict(picture=np.ndarray, maps=(list, tuple), windows=dict).items():
        assert name not in scope or isinstance(scope[name], kind)
    assert page != 'docs/attention.md' or (tmp_path / 'attention.png').is_file()
