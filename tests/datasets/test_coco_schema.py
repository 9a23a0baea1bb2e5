"""Annotation files against the schema: each wrong field is one finding with the entries that have it."""

import json
from pathlib import Path

import pytest

from mmtwins.datasets.coco_schema import entries_by_id, name_entry, read_coco, repeated
from mmtwins.datasets.findings import Finding, Findings

IMAGE = dict(id=1, file_name='a.jpg', height=4, width=5)
CATEGORY = dict(id=1, name='car')
ANNOTATION = dict(id=3, image_id=1, category_id=1, bbox=[0, 1.5, 2, 3], area=6, iscrowd=0)


def read(folder: Path, content: object, **arguments: object) -> tuple[object, list[Finding]]:
    path = folder / 'a.json'
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    findings = Findings()
    return read_coco(str(path), findings, **arguments), findings.finish()


def make(**changes: object) -> dict:
    return dict(images=[IMAGE], annotations=[ANNOTATION], categories=[CATEGORY]) | changes


def test_a_valid_file_is_read_as_it_is(tmp_path: Path) -> None:
    content = make(more=1, annotations=[dict(ANNOTATION, extra=None, ignore=None)])
    file, found = read(tmp_path, content)
    assert not found
    assert (file.images, file.annotations, file.categories) == tuple(
        content[name] for name in ('images', 'annotations', 'categories')
    )


@pytest.mark.parametrize(
    ('content', 'text'),
    [
        (b'', 'the annotation file is empty'),
        (b'{"images": [', 'it is no JSON: Expecting value in line 1, column 13'),
        (b'\xef\xbb\xbf{}', 'it is no JSON: Unexpected UTF-8 BOM'),
        (b'\xff\xfe{\x00', 'it is no text file in UTF-8: byte 0 is 0xff'),
        (b'[' * 100_000, 'its brackets are nested too deeply'),
        (b'9' * 5000, 'it cannot be read: Exceeds the limit'),
        ([], 'it holds a list, as files of results are, not a dict of images'),
        (7, 'it holds a int, not a dict'),
        ({}, 'it has no images'),
        (make(annotations=None), 'it has no annotations'),
        (make(categories={}), 'it has a dict, not a list, as categories'),
    ],
)
def test_files_that_are_none(content: object, text: str, tmp_path: Path) -> None:
    file, (found,) = read(tmp_path, content)
    assert file is None and found.is_error
    assert text in found.text and found.path.endswith('a.json')


def test_a_missing_file_and_a_test_split_without_annotations(tmp_path: Path) -> None:
    findings = Findings()
    assert read_coco(str(tmp_path / 'gone.json'), findings) is None
    assert 'the annotation file does not exist' in findings.finish()[0].sentence
    file, (found,) = read(tmp_path, dict(images=[IMAGE], categories=[CATEGORY]), needs_annotations=False)
    assert file.annotations == [] and not found.is_error


@pytest.mark.parametrize(
    ('section', 'entry', 'text'),
    [
        ('annotations', dict(ANNOTATION, bbox=[1, 2, 3, float('nan')]), 'have a bbox that is not four finite numbers'),
        ('annotations', dict(ANNOTATION, bbox=[1, 2, 3]), 'have a bbox that is not four finite numbers'),
        ('annotations', dict(ANNOTATION, bbox=['1', 2, 3, 4]), 'have a bbox that is not'),
        ('annotations', dict(ANNOTATION, bbox=[True, 2, 3, 4]), 'have a bbox that is not'),
        ('annotations', dict(ANNOTATION, bbox=[1e300, 2, 3, 4]), 'have a bbox that is not'),
        ('annotations', dict(ANNOTATION, bbox=[10**400, 2, 3, 4]), 'have a bbox that is not'),
        ('annotations', dict(ANNOTATION, area=None), 'have a area that is not a finite number'),
        ('annotations', dict(ANNOTATION, iscrowd='0'), 'have a iscrowd that is not 0 or 1'),
        ('annotations', dict(ANNOTATION, iscrowd=2), 'have a iscrowd that is not 0 or 1'),
        ('annotations', dict(ANNOTATION, category_id='1'), 'have a category_id that is not a whole number'),
        ('annotations', dict(ANNOTATION, image_id=True), 'have a image_id that is not a whole number'),
        ('annotations', dict(ANNOTATION, image_id=10**30), 'have a image_id that is not a whole number'),
        ('annotations', {k: v for k, v in ANNOTATION.items() if k != 'area'}, 'have no area'),
        ('annotations', None, 'are no dicts'),
        ('images', dict(IMAGE, height=0), 'have a height that is not a whole number of pixels, at least 1'),
        ('images', dict(IMAGE, width=5.5), 'have a width that is not a whole number of pixels'),
        ('images', dict(IMAGE, file_name=''), 'have a file_name that is not the path of an image'),
        ('images', dict(IMAGE, file_name=7), 'have a file_name that is not the path'),
        ('categories', dict(CATEGORY, name=None), 'have a name that is not a text'),
    ],
)
def test_wrong_fields_are_named_and_left_out(section: str, entry: object, text: str, tmp_path: Path) -> None:
    content = make()
    content[section] = [*content[section], entry, entry]
    file, (found,) = read(tmp_path, content)
    assert found.is_error and found.count == 2
    assert f'2 of 3 {section} {text}' in found.text
    assert len(getattr(file, section)) == 1


def test_whole_numbers_with_a_decimal_point_are_harmless(tmp_path: Path) -> None:
    file, (found,) = read(tmp_path, make(annotations=[dict(ANNOTATION, image_id=1.0)]))
    assert not found.is_error and 'with a decimal point' in found.text
    assert file.annotations[0]['image_id'] == 1


def test_names_and_ids() -> None:
    assert name_entry('annotations', dict(id=3, image_id=4), 0) == 'annotation 3 of image 4'
    assert name_entry('images', dict(id=3, file_name='a.jpg'), 0) == 'image 3 a.jpg'
    assert name_entry('categories', None, 5) == 'categories[5]'
    assert repeated([1, 2, 1, 3, 1]) == [1, 1]
    assert entries_by_id([dict(id=1, a=1), dict(id=1, a=2)]) == {1: dict(id=1, a=2)}
