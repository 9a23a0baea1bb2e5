"""Annotation files that keep to the schema and are wrong all the same, or fine: what is found, and how it is called."""

from collections.abc import Callable

import pytest
from mmengine.config import Config

from mmtwins.datasets.coco import check_coco
from mmtwins.datasets.coco_table import CocoTable
from mmtwins.datasets.data_sources import find_sources
from mmtwins.datasets.findings import Finding, Findings

pytest.importorskip('mmdet')
Spoil = Callable[..., Config]


def check(cfg: Config, split: str = 'train') -> tuple[CocoTable | None, dict[str, Finding]]:
    findings = Findings()
    table = check_coco(find_sources(cfg, (split,))[0], findings)
    return table, {one.code: one for one in findings.finish()}


def each(change: Callable[[dict], object]) -> Callable[[dict], None]:
    """A change of every annotation."""

    def apply(content: dict) -> None:
        for one in content['annotations']:
            change(one)

    return apply


@pytest.mark.parametrize('library', ['coco', 'boxes'])
def test_right_data_are_counted(library: str, spoil_coco: Spoil) -> None:
    table, found = check(spoil_coco(lambda content: None, library=library))
    assert not found and table is not None
    assert (len(table.boxes), table.kept.sum(), table.used.sum(), table.kept_images.sum()) == (30, 30, 29, 10)
    assert table.name(4) == 'annotation 5 in 0002.jpg'


ERRORS = {
    'all crowd': (each(lambda a: a.update(iscrowd=1)), 'no-box', 'all 30 annotations are crowds or ignored'),
    'all ignored': (each(lambda a: a.update(ignore=1)), 'no-box', 'all 30 annotations are crowds or ignored'),
    'none': (lambda c: c.update(annotations=[]), 'no-box', 'it has no annotation'),
    'no images': (lambda c: c.update(images=[]), 'no-image', 'it has no images'),
    'categories shifted': (
        each(lambda a: a.update(category_id=a['category_id'] + 1)),
        'unknown-category',
        'annotations have a category_id that no category has',
    ),
    'images shifted': (
        each(lambda a: a.update(image_id=a['image_id'] + 1)),
        'unknown-image',
        '3 of 30 annotations have an image_id that no image has',
    ),
    'no image matches': (
        each(lambda a: a.update(image_id=a['image_id'] + 100)),
        'no-image',
        '30 of 30 annotations have an image_id that no image has',
    ),
    'ids twice': (each(lambda a: a.update(id=1)), 'id-twice', '29 ids of annotations occur again'),
    'empty boxes': (each(lambda a: a.update(bbox=[*a['bbox'][:2], 0, 9])), 'box-dropped', '30 boxes (100.0%) are outside'),
    'no areas': (each(lambda a: a.update(area=0)), 'box-dropped', '30 boxes (100.0%) are outside'),
    'corners': (
        each(lambda a: a.update(bbox=[*a['bbox'][:2], a['bbox'][0] + a['bbox'][2], a['bbox'][1] + a['bbox'][3]])),
        'box-format',
        'the boxes look like x1, y1, x2, y2, not like x, y, width, height in pixels: 100% are then around their masks',
    ),
    'shares': (
        each(lambda a: a.update(bbox=[value / 128 for value in a['bbox']])),
        'box-format',
        'the boxes look like shares of the image from 0 to 1',
    ),
    'masks elsewhere': (
        each(lambda a: a.update(bbox=[0, 0, 30, 30])),
        'box-not-mask',
        'are not where their masks are',
    ),
    'no masks': (each(lambda a: a.pop('segmentation')), 'mask-missing', '30 of 30 annotations have no segmentation'),
    'flat polygons': (
        each(lambda a: a.update(segmentation=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        'mask-shape',
        'a segmentation that is neither',
    ),
    'relative polygons': (
        each(lambda a: a.update(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]])),
        'box-not-mask',
        '30 boxes (100.0% of those with a mask) are not where their masks are',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', ERRORS)
def test_what_a_person_would_call_wrong(name: str, spoil_coco: Spoil) -> None:
    change, code, text = ERRORS[name]
    _, found = check(spoil_coco(change))
    assert found[code].is_error, found
    assert text in found[code].text
    assert 'instances_train2017.json' in found[code].path and found[code].remedy


WARNINGS = {
    'more categories': (lambda c: c['categories'].insert(1, dict(id=9, name='tree')), 'classes', '1 categories are no classes'),
    'twice': (lambda c: c['annotations'].append(dict(c['annotations'][0], id=99)), 'box-twice', '1 boxes stand there twice'),
    'file twice': (lambda c: c['images'].append(dict(c['images'][0], id=99)), 'file-twice', '1 files stand under images'),
    'one outside': (
        lambda c: c['annotations'][0].update(bbox=[300, 3, 9, 9]),
        'box-dropped',
        '1 boxes (3.3%) are outside of their image',
    ),
    'one half outside': (
        lambda c: c['annotations'][0].update(bbox=[-20, 3, 60, 30]),
        'box-outside',
        '1 boxes (3.3%) have more than a tenth of their area outside',
    ),
    'a class gone': (
        lambda c: c.update(annotations=[a for a in c['annotations'] if a['category_id'] != 3]),
        'class-empty',
        '1 of 3 classes have no box (if it is the first or the last, perhaps the ids are shifted by one)',
    ),
    'short polygon': (
        lambda c: c['annotations'][0]['segmentation'].append([1.0, 2.0]),
        'mask-short',
        '1 of 30 annotations have polygons of less than three points',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', WARNINGS)
def test_what_is_harmless_is_a_warning(name: str, spoil_coco: Spoil) -> None:
    change, code, text = WARNINGS[name]
    _, found = check(spoil_coco(change))
    assert text in found[code].text
    assert not any(one.is_error for one in found.values()), found


def test_masks_that_the_config_does_not_read_are_no_errors(spoil_coco: Spoil) -> None:
    change = each(lambda a: a.update(segmentation=[[float('nan')] * 6]))
    assert check(spoil_coco(change))[1]['mask-shape'].is_error
    found = check(spoil_coco(change, library='boxes'))[1]
    assert not found['mask-shape'].is_error and 'which this config does not read' in found['mask-shape'].text
    assert not check(spoil_coco(each(lambda a: a.pop('segmentation')), library='boxes'))[1]


def test_what_the_metric_needs(spoil_coco: Spoil) -> None:
    gone = each(lambda a: a.pop('iscrowd'))
    assert not check(spoil_coco(gone))[1]
    found = check(spoil_coco(gone, 'val'), 'val')[1]
    assert found['schema'].is_error and "have no iscrowd, which COCO's metric reads" in found['schema'].text
    zero = spoil_coco(lambda content: content['annotations'][0].update(id=0), 'val')
    assert not check(zero, 'val')[1]['id-zero'].is_error
    short = spoil_coco(lambda content: content['annotations'][0]['segmentation'].append([1.0]), 'val')
    assert check(short, 'val')[1]['mask-short'].is_error


def test_nothing_is_left_after_the_filter(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: None)
    cfg.train_dataloader.dataset.filter_cfg = dict(min_size=1000)
    assert 'none of its 10 images is left after filter_cfg' in check(cfg)[1]['no-image'].text
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=70)
    table, found = check(cfg)
    assert not found and table is not None
    assert [image['id'] for image, kept in zip(table.file.images, table.kept_images) if kept] == [3, 4, 7, 8]


def test_a_data_set_without_a_file(spoil_coco: Spoil) -> None:
    cfg = spoil_coco(lambda content: None)
    cfg.train_dataloader.dataset.ann_file = ''
    assert 'has no ann_file' in check(cfg)[1]['file'].text
