"""Find the category of each class in a COCO file, by its name."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


def category_ids(categories: Iterable[Mapping[str, Any]], classes: Sequence[str], path: str) -> list[int]:
    """Find the category of each class by its name, whatever the order of the categories.

    Args:
        categories: Categories of the annotation file; there may be more of them than classes.
        classes: Names of the classes, in the order of a model's outputs.
        path: The annotation file, for messages.

    Returns:
        Category id of each class, in the order of the classes.

    Raises:
        ValueError: No category, or more than one, has the name of a class, or two classes have the same name.
    """
    by_name: dict[str, list[int]] = {}
    for category in categories:
        by_name.setdefault(category['name'], []).append(category['id'])
    missing = [name for name in classes if name not in by_name]
    if missing:
        surplus = [name for name in by_name if name not in classes]
        cases = ', '.join(with_similar(name, surplus) for name in missing[:5])
        raise ValueError(
            f'{path}: {len(missing)} of the {len(classes)} classes are no categories of the file: {cases}: correct '
            f"metainfo['classes'] of the data set, or the file; its categories are {_shorten(list(by_name))}"
        )
    twice = [name for name in classes if len(by_name[name]) > 1 or list(classes).count(name) > 1]
    if twice:
        raise ValueError(
            f'{path}: {twice[0]!r} is the name of several classes or categories: give each a name of its own'
        )
    return [by_name[name][0] for name in classes]


def with_similar(name: str, others: Sequence[str]) -> str:
    """Quote a name for a message, with the most similar one of the others if there is one."""
    by_look = {other.strip().lower(): other for other in others}
    similar = get_close_matches(name.strip().lower(), list(by_look), 1, 0.6)
    return f'{name!r}; the file has {by_look[similar[0]]!r}' if similar else repr(name)


def _shorten(names: Sequence[str]) -> str:
    return f'{tuple(names[:20])!r}' + (f' and {len(names) - 20} more' if len(names) > 20 else '')
