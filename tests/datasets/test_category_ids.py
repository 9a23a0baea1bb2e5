"""The category of each class, found by its name."""

import pytest

from mmtwins.datasets.category_ids import category_ids, with_similar

CATEGORIES = [dict(id=7, name='kite'), dict(id=2, name='ball'), dict(id=5, name='crate')]


@pytest.mark.parametrize(
    ('classes', 'ids'),
    [(('kite', 'ball', 'crate'), [7, 2, 5]), (('ball', 'crate', 'kite'), [2, 5, 7]), (('crate',), [5]), ((), [])],
)
def test_the_classes_decide_about_the_order(classes: tuple, ids: list[int]) -> None:
    assert category_ids(CATEGORIES, classes, 'train.json') == ids


@pytest.mark.parametrize(
    ('categories', 'classes', 'message'),
    [
        (
            CATEGORIES,
            ('ball', 'Krate', 'x'),
            r"^train\.json: 2 of the 3 classes are no categories of the file: 'Krate'; the file has 'crate', 'x': correct "
            r"metainfo\['classes'\] .* its categories are \('kite', 'ball', 'crate'\)$",
        ),
        ([], ('ball',), r'1 of the 1 classes are no categories'),
        (CATEGORIES, ('ball', 'ball'), r"^train\.json: 'ball' is the name of several classes or categories"),
        ([*CATEGORIES, dict(id=9, name='ball')], ('kite', 'ball'), r"'ball' is the name of several"),
        ([dict(id=i, name=f'c{i}') for i in range(25)], ('x',), r"'c19'\) and 5 more$"),
    ],
)
def test_names_that_do_not_fit_are_an_error(categories: list[dict], classes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        category_ids(categories, classes, 'train.json')


def test_a_category_that_is_no_class_may_be_there_twice() -> None:
    assert category_ids([*CATEGORIES, dict(id=9, name='kite')], ('ball', 'crate'), 'train.json') == [2, 5]


def test_the_most_similar_name_is_shown() -> None:
    assert with_similar('Ball ', ['bell', 'ball', 'crate']) == "'Ball '; the file has 'ball'"
    assert with_similar('zebra', ['ball']) == "'zebra'"
