"""A small data set in the formats of COCO and of label images, with every kind of mask, and configs that train on it."""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_api

from mmtwins.masks import encode_mask

CONFIGS = Path(__file__).parents[2] / 'configs' / 'toy'
(SEGMENTOR,) = CONFIGS.glob('upernet*.py')
(DETECTOR,) = CONFIGS.glob('mask-rcnn*.py')
THINGS = ('ball', 'crate', 'kite')
CLASSES = ('ground', *THINGS)
SIZES = ((64, 96), (96, 64), (80, 80), (96, 128))
SPLITS = {'train': 10, 'val': 5}

COMMON = """
data_root = {root!r}
train = dict(data_root=data_root, metainfo=dict(classes={classes!r}, palette={palette!r}))
train_dataloader = dict(batch_size=2, dataset=train)
val_dataloader = dict(batch_size=1, dataset=train)
test_dataloader = val_dataloader
"""
DETECTION = """
_base_ = {base!r}
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask={masks})]
train_pipeline = [*load, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
test_pipeline = [
    load[0],
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    load[1],
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=20)),
    test_cfg=dict(rpn=dict(nms_pre=50, max_per_img=20), rcnn=dict(max_per_img=10)),
)
val_evaluator = dict(ann_file={root!r} + '/annotations/instances_val2017.json')
test_evaluator = val_evaluator
"""
BOXES = """
model['roi_head'].update(mask_head=None, mask_roi_extractor=None)
val_evaluator['metric'] = 'bbox'
"""
SEGMENTATION = """
_base_ = {base!r}
model = dict(decode_head=dict(num_classes=4), auxiliary_head=dict(num_classes=4))
load = dict(type='LoadImageFromFile')
labels = [dict(type='LoadAnnotations'), dict(type='CheckLabels', num_classes=4)]
train_pipeline = [load, *labels, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [load, *labels, dict(type='PackSegInputs')]
"""
PIPELINES = """
train_dataloader['dataset'] = dict(pipeline=train_pipeline, **train)
val_dataloader['dataset'] = dict(pipeline=test_pipeline, **train)
"""


def write_small_data(root: Path) -> Path:
    """Write ``root/coco`` and ``root/ade`` in the layouts of the toy configs.

    ``coco.py`` trains a detector with masks, ``boxes.py`` one without, ``ade.py`` a segmentor.

    Args:
        root: Folder to write.

    Returns:
        ``root``.
    """
    for split, number in SPLITS.items():
        _write_split(root, split, number)
    for name, folder, text, base, classes in (
        ('coco', 'coco', DETECTION, DETECTOR, THINGS),
        ('boxes', 'coco', DETECTION + BOXES, DETECTOR, THINGS),
        ('ade', 'ade', SEGMENTATION, SEGMENTOR, CLASSES),
    ):
        palette = [(60 * i, 200 - 50 * i, 90) for i in range(len(classes))]
        words = dict(root=str(root / folder), base=str(base), classes=classes, palette=palette, masks=name == 'coco')
        (root / f'{name}.py').write_text((text + COMMON + PIPELINES).format(**words))
    return root


def _write_split(root: Path, split: str, number: int) -> None:
    rng = np.random.RandomState(len(split))
    long_name = {'train': 'training', 'val': 'validation'}[split]
    folders = [root / f'coco/{split}2017', root / f'ade/images/{long_name}', root / f'ade/annotations/{long_name}']
    for folder in [*folders, root / 'coco/annotations']:
        folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(number):
        height, width = SIZES[index % len(SIZES)]
        picture = rng.randint(60, 120, (height, width, 3)).astype(np.uint8)
        labels = np.ones((height, width), np.uint8)
        for place in range(3):
            thing = (index + place) % len(THINGS)
            mask, polygon = _draw(rng, thing, height, width)
            picture[mask] = np.array([40 + 90 * thing, 220 - 80 * thing, 60 * place]) + rng.randint(
                0, 30, (mask.sum(), 3)
            )
            labels[mask] = thing + 2
            code = encode_mask(mask)
            segmentation = [polygon, code, dict(size=code['size'], counts=_runs(mask))][
                (index + place) % 3 if place else 0
            ]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index + 1,
                    category_id=thing + 1,
                    iscrowd=int(index == 3 and place == 1),
                    area=float(mask_api.area(code)),
                    bbox=mask_api.toBbox(code).tolist(),
                    segmentation=[segmentation] if isinstance(segmentation, list) else segmentation,
                )
            )
        labels[:3] = 0
        jpeg = cv2.imencode('.jpg', picture)[1].tobytes()
        (folders[0] / f'{index + 1:04d}.jpg').write_bytes(jpeg)
        (folders[1] / f'{index + 1:04d}.jpg').write_bytes(jpeg)
        (folders[2] / f'{index + 1:04d}.png').write_bytes(cv2.imencode('.png', labels)[1].tobytes())
        images.append(dict(id=index + 1, file_name=f'{index + 1:04d}.jpg', height=height, width=width))
    categories = [dict(id=i + 1, name=name, supercategory='toy') for i, name in enumerate(THINGS)]
    content = dict(info={}, licenses=[], images=images, annotations=annotations, categories=categories)
    (root / f'coco/annotations/instances_{split}2017.json').write_text(json.dumps(content))


def _draw(rng: np.random.RandomState, thing: int, height: int, width: int) -> tuple[np.ndarray, list[float]]:
    """A mask (height, width) of a disc, a box or a triangle, and its polygon."""
    high, wide = rng.randint(14, 30, 2)
    y, x = rng.randint(4, height - high - 1), rng.randint(1, width - wide - 1)
    angles = np.linspace(0, 2 * np.pi, (16, 4, 3)[thing], endpoint=False) + (0, np.pi / 4, 0)[thing]
    points = np.stack([x + wide / 2 + wide / 2 * np.cos(angles), y + high / 2 + high / 2 * np.sin(angles)], 1).round(1)
    code = mask_api.merge(mask_api.frPyObjects([points.ravel().tolist()], height, width))
    return mask_api.decode(code).astype(bool), points.ravel().tolist()


def _runs(mask: np.ndarray) -> list[int]:
    """Run lengths, not compressed."""
    flat = np.concatenate([[0], mask.ravel('F'), [0]]).astype(int)
    changes = np.flatnonzero(np.diff(flat))
    ends = np.concatenate([[0], changes, [mask.size]])
    return np.diff(ends).tolist()
