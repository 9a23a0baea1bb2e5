"""The shipped configs: they parse, build, decay and schedule what the recipes say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, DefaultScope

from mmtwins.launch import load_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[1] / 'configs'
LEAVES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_')
UPERNET = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
MASK_RCNN = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py'


def build_model(cfg: Config) -> torch.nn.Module:
    import mmdet.registry
    import mmseg.registry

    registry = {'mmseg': mmseg.registry.MODELS, 'mmdet': mmdet.registry.MODELS}[cfg.default_scope]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return registry.build(cfg.model)


def learning_rates(cfg: Config, iterations: int, epoch_length: int | None = None) -> list[float]:
    """The rate at each iteration, by MMEngine's own schedulers stepped as its hook steps them."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = [PARAM_SCHEDULERS.build(dict(s), default_args=dict(optimizer=optimizer)) for s in cfg.param_scheduler]
    rates = []
    for iteration in range(iterations):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (epoch_length and (iteration + 1) % epoch_length == 0):
                scheduler.step()
    return rates


def test_base_names_are_unique() -> None:
    # mim looks a config up by its base name in the whole package.
    names = [path.name for path in CONFIGS.rglob('*.py')]
    assert len(names) == len(set(names))
    assert {UPERNET, MASK_RCNN} <= set(LEAVES)


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_config_parses_and_builds(path: Path) -> None:
    text = path.read_text()
    assert 'mmseg::' not in text
    assert 'mmdet::' not in text
    cfg = load_config(str(path))
    assert cfg.custom_imports == dict(imports=['mmtwins'], allow_failed_imports=False)
    assert cfg.model.backbone.type == 'TwinsSVTBackbone'
    model = build_model(cfg)
    # Every no-decay key hits parameters: mmseg's pos_block key matches nothing.
    for key in cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {}):
        assert any(key in name for name, _ in model.named_parameters()), key


@pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)
def test_data_root_moves_every_data_set_and_annotation_file(path: Path, tmp_path: Path) -> None:
    cfg = load_config(str(path), {'data_root': str(tmp_path)})
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == str(tmp_path)
    assert Path(cfg.test_evaluator.get('ann_file', tmp_path)).is_relative_to(tmp_path)
    assert 'data/' not in str({k: v for k, v in cfg.items() if k not in ('data_root',)}).replace(str(tmp_path), '')


def test_upernet_decays_everything_but_norms_and_position_encodings() -> None:
    cfg = load_config(str(UPERNET))
    model = build_model(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    decay = {id(group['params'][0]): group['weight_decay'] for group in optimizer.param_groups}
    undecayed = {name for name, p in model.named_parameters() if decay[id(p)] == 0}
    assert undecayed == {name for name, _ in model.named_parameters() if 'pos_block' in name or 'norm' in name}
    assert 'backbone.pos_block.0.proj.0.weight' in undecayed
    assert 'backbone.blocks.0.1.attn.norm.bias' in undecayed
    assert {decay[id(p)] for name, p in model.named_parameters() if name not in undecayed} == {0.01}


def test_upernet_learning_rate_is_the_published_one() -> None:
    # Linear decay from the start times a linear warm-up; mmseg's port ends both one iteration early and starts the
    # decay after the warm-up.
    total = 160000
    rates = np.array(learning_rates(load_config(str(UPERNET)), total))
    t = np.arange(total)
    expected = 6e-5 * (1 - t / total)
    expected[:1500] *= 1 - (1 - t[:1500] / 1500) * (1 - 1e-6)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_mask_rcnn_learning_rate_is_the_published_one() -> None:
    epoch_length = 600
    rates = np.array(learning_rates(load_config(str(MASK_RCNN)), 12 * epoch_length, epoch_length))
    t = np.arange(12 * epoch_length)
    expected = 2e-4 * np.select([t < 8 * epoch_length, t < 11 * epoch_length], [1.0, 0.1], 0.01)
    expected[:500] *= 1 - (1 - t[:500] / 500) * (1 - 0.001)
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_mask_rcnn_decays_everything() -> None:
    cfg = load_config(str(MASK_RCNN))
    optimizer = build_optim_wrapper(build_model(cfg), cfg.optim_wrapper).optimizer
    assert {group['weight_decay'] for group in optimizer.param_groups} == {1e-4}


def test_published_model_settings() -> None:
    upernet, mask_rcnn = load_config(str(UPERNET)), load_config(str(MASK_RCNN))
    for cfg, window_padding in ((upernet, 'masked'), (mask_rcnn, 'zero')):
        assert (cfg.model.backbone.arch, cfg.model.backbone.drop_path_rate) == ('small', 0.2)
        assert cfg.model.backbone.window_padding == window_padding
        assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (2, 16)
        assert not cfg.get('find_unused_parameters', False)
    assert build_model(upernet).decode_head.conv_seg.out_channels == 150
    assert build_model(mask_rcnn).roi_head.bbox_head.num_classes == 80


def write_image(path: Path, size: tuple[int, int]) -> None:
    import cv2

    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 256, (*size, 3), dtype=np.uint8))


def run_pipeline(cfg: Config, pipeline: list[dict], results: dict) -> dict:
    import mmdet.datasets.transforms  # noqa: F401
    import mmseg.datasets.transforms  # noqa: F401
    from mmengine.dataset import Compose

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        build: Callable = Compose([dict(t, _scope_=cfg.default_scope) for t in pipeline])
        return build(results)


def test_upernet_pipelines_give_the_published_shapes(tmp_path: Path) -> None:
    import cv2

    cfg = load_config(str(UPERNET))
    write_image(tmp_path / 'images' / 'a.jpg', (300, 500))
    labels = np.random.RandomState(0).randint(0, 151, (300, 500), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), labels)
    results = dict(
        img_path=str(tmp_path / 'images' / 'a.jpg'),
        seg_map_path=str(tmp_path / 'a.png'),
        reduce_zero_label=True,
        seg_fields=[],
    )
    for _ in range(5):
        packed = run_pipeline(cfg, cfg.train_pipeline, dict(results, seg_fields=[]))
        height, width = packed['inputs'].shape[1:]
        assert height <= 512
        assert width <= 512
        assert packed['data_samples'].gt_sem_seg.data.shape == (1, height, width)
    packed = run_pipeline(cfg, cfg.test_pipeline, dict(results, seg_fields=[]))
    assert packed['inputs'].shape == (3, 512, 853)  # the short side to 512
    expected = torch.from_numpy(np.where(labels == 0, 255, labels.astype(int) - 1))
    assert torch.equal(packed['data_samples'].gt_sem_seg.data[0].long(), expected)
    assert [step.type for step in cfg.train_pipeline].count('CheckLabels') == 1
    views = run_pipeline(cfg, cfg.tta_pipeline, dict(results, seg_fields=[]))['inputs']
    assert [tuple(v.shape[1:]) for v in views][::2] == [
        (256, 427), (384, 640), (512, 853), (640, 1067), (768, 1280), (896, 1493)
    ]  # fmt: skip
    assert len(views) == 12


def test_mask_rcnn_pipelines_give_the_published_shapes(tmp_path: Path) -> None:
    cfg = load_config(str(MASK_RCNN))
    write_image(tmp_path / 'images' / 'a.jpg', (480, 640))
    results = dict(
        img_path=str(tmp_path / 'images' / 'a.jpg'),
        img_id=1,
        instances=[
            dict(
                bbox=[10, 20, 110, 220], bbox_label=3, ignore_flag=0, mask=[[10, 20, 110, 20, 110, 220, 10, 220]]
            )
        ],
    )  # fmt: skip
    packed = run_pipeline(cfg, cfg.train_pipeline, results)
    assert packed['inputs'].shape == (3, 800, 1067)
    box = packed['data_samples'].gt_instances.bboxes.tensor[0]
    assert (box[2] - box[0]).item() == pytest.approx(100 * 1067 / 640, abs=0.01)
    assert packed['data_samples'].gt_instances.masks.masks.shape == (1, 800, 1067)
