"""The shipped data pipelines on images: the published sizes, and masks and boxes that follow their image."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import RECIPES, Recipe

ADE20K = [recipe for recipe in RECIPES if recipe.dataset == 'ade20k']
COCO = [recipe for recipe in RECIPES if recipe.dataset == 'coco']
SHORT_SIDES = {480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800}


def by_name(recipe: Recipe) -> str:
    return recipe.name


def write_image(path: Path, size: tuple[int, int]) -> str:
    cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 256, (*size, 3), dtype=np.uint8))
    return str(path)


def run_pipeline(cfg: Config, pipeline: list[dict], results: dict) -> dict:
    import mmdet.datasets.transforms  # noqa: F401
    import mmseg.datasets.transforms  # noqa: F401
    from mmengine.dataset import Compose

    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        build: Callable = Compose([dict(t, _scope_=cfg.default_scope) for t in pipeline])
        return build(results)


@pytest.fixture(scope='module')
def ade_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, np.ndarray]:
    """What the data set hands over for an image of 300 x 500 pixels, and its labels."""
    folder = tmp_path_factory.mktemp('ade')
    labels = np.random.RandomState(0).randint(0, 151, (300, 500), dtype=np.uint8)
    cv2.imwrite(str(folder / 'a.png'), labels)
    image = write_image(folder / 'a.jpg', labels.shape)
    return dict(img_path=image, seg_map_path=str(folder / 'a.png'), reduce_zero_label=True), labels


@pytest.mark.parametrize('recipe', ADE20K, ids=by_name)
def test_ade20k_training_crops_at_most_512_and_pads_to_512(recipe: Recipe, ade_image: tuple) -> None:
    cfg = recipe.cfg
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline == cfg.train_pipeline
    steps = {step.type: step for step in pipeline}
    assert list(steps) == [
        'LoadImageFromFile', 'CheckImage', 'LoadAnnotations', 'CheckLabels', 'RandomResize', 'RandomCrop',
        'RandomFlip', 'PhotoMetricDistortion', 'PackSegInputs',
    ]  # fmt: skip
    assert steps['RandomResize'] == dict(
        type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True
    )
    assert steps['RandomCrop'] == dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75)
    assert steps['RandomFlip'].prob == 0.5
    np.random.seed(0)
    sizes = []
    for _ in range(4):
        packed = run_pipeline(cfg, pipeline, dict(ade_image[0], seg_fields=[]))
        sizes.append(tuple(packed['inputs'].shape[1:]))
        assert packed['data_samples'].gt_sem_seg.data.shape == (1, *sizes[-1])
    assert max(max(size) for size in sizes) == 512
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    with DefaultScope.overwrite_default_scope('mmseg'):
        data = MODELS.build(cfg.model.data_preprocessor)(batch, True)
    assert data['inputs'].shape == (1, 3, 512, 512)
    assert data['data_samples'][0].gt_sem_seg.data.shape == (1, 512, 512)


@pytest.mark.parametrize('recipe', ADE20K[:1] + ADE20K[-1:], ids=by_name)
def test_ade20k_test_pipeline_keeps_the_ratio_and_the_annotation(recipe: Recipe, ade_image: tuple) -> None:
    results, labels = ade_image
    cfg = recipe.cfg
    packed = run_pipeline(cfg, cfg.test_dataloader.dataset.pipeline, dict(results, seg_fields=[]))
    assert packed['inputs'].shape == (3, 512, 853)  # the short side to 512
    expected = torch.from_numpy(np.where(labels == 0, 255, labels.astype(int) - 1))
    assert torch.equal(packed['data_samples'].gt_sem_seg.data[0].long(), expected)


@pytest.mark.parametrize('recipe', ADE20K, ids=by_name)
def test_ade20k_test_time_augmentation_has_six_scales_and_flips(recipe: Recipe, ade_image: tuple) -> None:
    cfg = recipe.cfg
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build({**cfg.tta_model, 'module': cfg.model})
    assert type(model).__name__ == 'SegTTAModel'
    packed = run_pipeline(cfg, cfg.tta_pipeline, dict(ade_image[0], seg_fields=[]))
    assert [tuple(view.shape[1:]) for view in packed['inputs']][::2] == [
        (256, 427), (384, 640), (512, 853), (640, 1067), (768, 1280), (896, 1493)
    ]  # fmt: skip
    assert [sample.flip for sample in packed['data_samples']] == [False, True] * 6


def coco_image(folder: Path, size: tuple[int, int]) -> dict:
    """What the data set hands over for an image with one object, a rectangle of 200 x 100 pixels (H x W)."""
    outline = [[10, 20, 110, 20, 110, 220, 10, 220]]
    return dict(
        img_path=write_image(folder / 'a.jpg', size),
        img_id=1,
        instances=[dict(bbox=[10, 20, 110, 220], bbox_label=3, ignore_flag=0, mask=outline)],
    )


@pytest.mark.parametrize('recipe', COCO, ids=by_name)
def test_coco_pipelines_have_masks_where_the_model_has(recipe: Recipe, tmp_path: Path) -> None:
    cfg = recipe.cfg
    has_masks = recipe.head == 'mask-rcnn'
    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')]
    assert pipelines == [cfg.train_pipeline, cfg.test_pipeline, cfg.test_pipeline]
    for pipeline in pipelines:
        (step,) = (step for step in pipeline if step.type == 'LoadAnnotations')
        assert (step.with_bbox, step.get('with_mask', False)) == (True, has_masks)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert evaluator.type == 'CocoMetric'
        assert evaluator.metric == (['bbox', 'segm'] if has_masks else 'bbox')
    for kind in ('filter_cfg', 'data_prefix'):
        assert kind in cfg.train_dataloader.dataset
    packed = run_pipeline(cfg, cfg.train_pipeline, coco_image(tmp_path, (480, 640)))
    instances = packed['data_samples'].gt_instances
    assert ('masks' in instances) == has_masks
    if has_masks and len(instances):
        assert instances.masks.masks.shape[1:] == packed['inputs'].shape[1:]
    packed = run_pipeline(cfg, cfg.test_pipeline, coco_image(tmp_path, (480, 640)))
    assert packed['inputs'].shape == (3, 800, 1067)
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    with DefaultScope.overwrite_default_scope('mmdet'):
        data = MODELS.build(cfg.model.data_preprocessor)(batch)
    assert data['inputs'].shape == (1, 3, 800, 1088)  # multiples of 32


@pytest.mark.parametrize('recipe', [r for r in COCO if r.schedule == '1x'], ids=by_name)
def test_1x_pipeline_resizes_to_800_and_flips(recipe: Recipe, tmp_path: Path) -> None:
    cfg = recipe.cfg
    types = [step.type for step in cfg.train_pipeline]
    assert types == ['LoadImageFromFile', 'CheckImage', 'LoadAnnotations', 'Resize', 'RandomFlip', 'PackDetInputs']
    assert cfg.train_pipeline[4].prob == 0.5
    packed = run_pipeline(cfg, cfg.train_pipeline, coco_image(tmp_path, (480, 640)))
    assert packed['inputs'].shape == (3, 800, 1067)
    box = packed['data_samples'].gt_instances.bboxes.tensor[0]
    assert (box[2] - box[0]).item() == pytest.approx(100 * 1067 / 640, abs=0.01)
    packed = run_pipeline(cfg, cfg.train_pipeline, coco_image(tmp_path, (300, 900)))
    assert packed['inputs'].shape == (3, 444, 1333)


THREE_X = [recipe for recipe in COCO if recipe.schedule == '3x']


@pytest.mark.parametrize('recipe', THREE_X, ids=by_name)
def test_3x_pipeline_is_the_same_for_every_recipe_of_a_head(recipe: Recipe) -> None:
    reference = next(other for other in THREE_X if other.head == recipe.head)
    assert recipe.cfg.train_pipeline == reference.cfg.train_pipeline
    assert [step.type for step in recipe.cfg.train_pipeline] == [
        'LoadImageFromFile', 'CheckImage', 'LoadAnnotations', 'RandomFlip', 'RandomChoice', 'PackDetInputs'
    ]  # fmt: skip
    resize, resize_and_crop = recipe.cfg.train_pipeline[4].transforms
    assert [step.type for step in resize] == ['RandomChoiceResize']
    assert [step.type for step in resize_and_crop] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    every_scale = [(short_side, 1333) for short_side in sorted(SHORT_SIDES)]
    assert resize[0].scales == resize_and_crop[2].scales == every_scale
    assert resize_and_crop[0].scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert resize_and_crop[1] == dict(
        type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True
    )


@pytest.mark.parametrize('head', ['mask-rcnn', 'retinanet'])
def test_3x_pipeline_gives_the_published_sizes(head: str, tmp_path: Path) -> None:
    cfg = next(recipe for recipe in THREE_X if recipe.head == head).cfg
    np.random.seed(0)
    sizes, empty = [], 0
    for _ in range(80):
        packed = run_pipeline(cfg, cfg.train_pipeline, coco_image(tmp_path, (480, 640)))
        height, width = packed['inputs'].shape[1:]
        sizes.append((height, width))
        instances = packed['data_samples'].gt_instances
        empty += len(instances) == 0
        if head == 'mask-rcnn':
            assert instances.masks.masks.shape == (len(instances), height, width)
        boxes = instances.bboxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert {min(size) for size in sizes} == SHORT_SIDES
    assert max(max(size) for size in sizes) <= 1333
    uncropped = [abs(width / height - 640 / 480) < 0.003 for height, width in sizes]
    assert 25 < sum(uncropped) < 55  # one half
    assert empty > 0  # a crop without objects is kept
    for _ in range(20):
        height, width = run_pipeline(cfg, cfg.train_pipeline, coco_image(tmp_path, (300, 900)))['inputs'].shape[1:]
        assert max(height, width) <= 1333
