"""The annotations of a COCO file as arrays; what is kept of them equals what MMDetection keeps."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from mmengine.config import Config

from mmtwins.datasets.coco import check_coco
from mmtwins.datasets.coco_schema import CocoFile
from mmtwins.datasets.coco_table import tabulate
from mmtwins.datasets.data_sources import find_sources
from mmtwins.datasets.findings import Findings

pytest.importorskip('mmdet')
Spoil = Callable[..., Config]


def test_columns() -> None:
    file = CocoFile(
        'a.json',
        [dict(id=7, file_name='a.jpg', height=4, width=5)],
        [
            dict(id=1, image_id=7, category_id=2, bbox=[0, 1, 2, 3], area=6.5, iscrowd=1),
            dict(id=2, image_id=8, category_id=3, bbox=[1, 1, 1, 1], area=1, ignore=True),
        ],
        [dict(id=2, name='b'), dict(id=1, name='a')],
    )
    table = tabulate(file, ('a', 'b'))
    assert table.image_rows.tolist() == [0, -1] and table.sizes.tolist() == [[4, 5], [0, 0]]
    assert table.labels.tolist() == [1, -1] and table.known_category.tolist() == [True, False]
    assert table.boxes.tolist() == [[0, 1, 2, 3], [1, 1, 1, 1]] and table.areas.tolist() == [6.5, 1]
    assert table.crowd.tolist() == [True, False] and table.ignored.tolist() == [False, True]
    assert table.with_box(0) == 'annotation 1 in a.jpg: [0, 1, 2, 3]' and table.name(1) == 'annotation 2 in image 8'
    assert tabulate(CocoFile('a', [], [], []), ()).boxes.shape == (0, 4)


@pytest.mark.parametrize('seed', range(8))
def test_kept_boxes_and_images_are_those_of_mmdetection(seed: int, spoil_coco: Spoil) -> None:
    from mmdet.datasets import CocoDataset

    rng = random.Random(seed)
    odd = dict(
        bbox=[[-30, 5, 40, 9], [-9, 5, 9, 9], [5, 5, 0.9, 9], [500, 5, 9, 9], [5, 90, 9, 500]],
        area=[0, -1, 0.5],
        ignore=[1, 0, None],
        iscrowd=[1],
        category_id=[4],
    )

    def spoil(content: dict) -> None:
        content['categories'].append(dict(id=4, name='other'))
        for one in content['annotations']:
            if rng.random() < 0.6:
                key = rng.choice(list(odd))
                one[key] = rng.choice(odd[key])

    cfg = spoil_coco(spoil, library='boxes')
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=70)
    table = check_coco(find_sources(cfg, ('train',))[0], Findings())
    config = {**cfg.train_dataloader.dataset, 'pipeline': []}
    config.pop('type')
    dataset = CocoDataset(**config)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    assert [info['img_id'] for info in infos] == [
        one['id'] for one, kept in zip(table.file.images, table.kept_images) if kept
    ]
    kept, used = np.flatnonzero(table.kept & table.kept_images[table.image_rows]), table.used
    loaded = [one for info in infos for one in info['instances']]
    assert [one['bbox'][:2] for one in loaded] == [table.file.annotations[row]['bbox'][:2] for row in kept]
    assert [one['bbox_label'] for one in loaded] == table.labels[kept].tolist()
    assert [not one['ignore_flag'] for one in loaded] == used[kept].tolist()
