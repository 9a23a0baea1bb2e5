"""Necks and heads: find what depends on the channels and strides of the backbone, and adapt it."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmengine.config import Config

from ..engine.config_sections import type_of
from .features import Feature, measure_neck
from .refusing import CannotSwap

# Parts of a model that do not read the features of its backbone.
OTHERS = ('backbone', 'neck', 'data_preprocessor', 'init_cfg', 'train_cfg', 'test_cfg', 'reid', 'tracker')
NOT_HEADS = (*OTHERS, 'encoder', 'decoder', 'positional_encoding')


class Edits(dict):
    """Changes of the elements of a list, by index."""


def change_consumers(
    cfg: Config, holder: Mapping[str, Any], old: Sequence[Feature], new: Sequence[Feature]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Find what changes in the neck and the heads of a model when its backbone gives other maps.

    Args:
        cfg: Config that has the model.
        holder: Config of the segmentor or the detector, with ``backbone``.
        old: Maps of the old backbone.
        new: Maps of the new one, in the same order.

    Returns:
        Changes of the holder, and reasons for some of them, by key.

    Raises:
        CannotSwap: A neck or a head cannot take the new maps.
    """
    changes: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    necks = holder.get('neck')
    if necks:
        listed = list(necks) if isinstance(necks, list | tuple) else [necks]
        edits = Edits()
        for i, neck in enumerate(listed):
            outs = _try_neck(cfg, neck, old)
            if outs and i == 0 and len(listed) == 1 and _makes_a_pyramid(old, outs, new):
                changes['neck'] = None
                reasons['neck'] = f'{type_of(neck)} made a pyramid from maps of one size; Twins gives a pyramid itself'
                old = outs
                break
            edit = _change_neck(neck, old, new)
            if edit:
                edits[i] = edit
            if outs is None and 'in_channels' not in neck:  # it pools maps to vectors
                continue
            if (
                outs is None
            ):  # it cannot run here, for example on operators without CPU code; the channels it gives stay
                old = new = ()
                break
            try:
                new = measure_neck(cfg, {**neck, **edit}, new)
            except Exception as error:
                raise CannotSwap(
                    f'its neck {type_of(neck)} cannot take maps at strides {", ".join(str(f.stride) for f in new)}: {error}'
                ) from error
            old = outs
            if [feature.channels for feature in old] == [feature.channels for feature in new]:
                break
        if edits:
            changes['neck'] = edits if isinstance(necks, list | tuple) else edits[0]
    before, after = [feature.channels for feature in old], [feature.channels for feature in new]
    if before != after:
        for key, head in _heads(holder):
            change = _change_heads(head, before, after, f'its {key}', 'decode_head' in holder)
            if change:
                changes[key] = change
            if key == 'decode_head' and isinstance(head, list | tuple):
                joined = _join_cascade(head, new)
                if joined:
                    for i, edit in joined.items():
                        changes.setdefault(key, Edits()).setdefault(i, {}).update(edit)
                    reasons[key] = (
                        'the OCRHead weighs the pixels of its map with the output of the head before, so both read the same map'
                    )
    return changes, reasons


def _join_cascade(heads: Sequence[Mapping[str, Any]], new: Sequence[Feature]) -> dict[int, dict[str, int]]:
    """Changes of heads before an OCRHead that read a map of another size, as with a dilated ResNet, whose last maps have one."""
    edits = {}
    for i, (first, second) in enumerate(pairwise(heads)):
        read, wanted = first.get('in_index', -1), second.get('in_index', -1)
        if type_of(second) != 'OCRHead' or not isinstance(read, int) or not isinstance(wanted, int):
            continue
        if new[read].stride != new[wanted].stride:
            edits[i] = dict(in_index=wanted, in_channels=new[wanted].channels)
    return edits


def _heads(holder: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in holder.items():
        if key not in NOT_HEADS and not key.startswith('teacher_') and isinstance(value, dict | list | tuple):
            yield key, value


def _try_neck(cfg: Config, neck: Mapping[str, Any], features: Sequence[Feature]) -> list[Feature] | None:
    try:
        return measure_neck(cfg, neck, features)
    except Exception:  # what it raises is its own
        return None


def _makes_a_pyramid(old: Sequence[Feature], outs: Sequence[Feature], new: Sequence[Feature]) -> bool:
    """Whether a neck resizes maps of one size to the strides that the new backbone has anyway."""
    return len({f.stride for f in old}) == 1 and len(old) > 1 and [f.stride for f in outs] == [f.stride for f in new]


def _change_neck(neck: Mapping[str, Any], old: Sequence[Feature], new: Sequence[Feature]) -> dict[str, Any]:
    before, after = [feature.channels for feature in old], [feature.channels for feature in new]
    change = _change_channels(neck, before, after, f'its neck {type_of(neck)}')
    outs = neck.get('out_channels')
    if 'in_channels' in change and isinstance(outs, list | tuple) and list(outs[: len(before)]) == before:
        change['out_channels'] = type(outs)([*after, *outs[len(before) :]])  # it passes these maps on unchanged
    return change


def _change_heads(
    head: Any, before: list[int], after: list[int], place: str, is_segmentor: bool, is_top: bool = True
) -> Any:
    """Changes of a head and of the heads in it; falsy if there are none."""
    if isinstance(head, list | tuple):
        found = ((i, _change_heads(one, before, after, place, is_segmentor, is_top)) for i, one in enumerate(head))
        return Edits({i: change for i, change in found if change})
    if not isinstance(head, Mapping):
        return {}
    change: dict[str, Any] = {}
    # In a segmentor, an inner head that reads the backbone has an in_index, such as the first head of K-Net.
    reads_features = is_top or 'in_index' in head or (not is_segmentor and 'type' in head)
    if reads_features and 'in_channels' in head:
        change = _change_channels(head, before, after, f'{place} {type_of(head)}', is_top)
        if change:
            return change
    outs = head.get('out_channels')
    if 'featmap_strides' in head and outs in before:  # regions are cut out of the backbone's maps
        return {'out_channels': after[before.index(outs)]}
    for key, value in head.items():
        if isinstance(value, dict | list | tuple) and key not in ('init_cfg', 'norm_cfg', 'train_cfg', 'test_cfg'):
            inner = _change_heads(value, before, after, place, is_segmentor, False)
            if inner:
                change[key] = inner
    return change


def _change_channels(
    part: Mapping[str, Any], before: list[int], after: list[int], place: str, is_top: bool = True
) -> dict[str, Any]:
    """The keys of a neck or a head that say how many channels it reads."""
    change: dict[str, Any] = {}
    given = part.get('in_channels')
    index = part.get('in_index')
    if isinstance(given, list | tuple):
        change['in_channels'] = _change_list(list(given), index, before, after, place)
    elif isinstance(given, int):
        value = _change_one(given, index, before, after, is_top)
        if value is not None:
            change['in_channels'] = value
    if part.get('c1_in_channels'):  # of DeepLabV3+, which reads the first map
        change['c1_in_channels'] = after[0]
    change = {key: value for key, value in change.items() if value != plain(part[key])}
    # Some necks take only a tuple.
    return {key: tuple(value) if isinstance(part[key], tuple) else value for key, value in change.items()}


def _change_list(given: list[int], index: Any, before: list[int], after: list[int], place: str) -> list[int]:
    if isinstance(index, list | tuple) and len(index) == len(given):
        return [after[i] for i in index]
    if given == before:
        return after
    if given == before[::-1]:
        return after[::-1]
    for start in range(len(before) - len(given) + 1):
        if before[start : start + len(given)] == given:
            return after[start : start + len(given)]
    if all(channels in before for channels in given):
        return [after[before.index(channels)] for channels in given]
    raise CannotSwap(f'{place} has in_channels={given}, where its backbone gives {before}')


def _change_one(given: int, index: Any, before: list[int], after: list[int], is_top: bool) -> int | None:
    """The new channels, or None if the old backbone has no map with the given number."""
    if isinstance(index, int):
        return after[index]
    if is_top and before[-1] == given:
        return after[-1]
    if before.count(given) == 1:
        return after[before.index(given)]
    return None


def plain(value: Any) -> Any:
    """The value, or a list of its elements if it is a tuple."""
    return list(value) if isinstance(value, tuple) else value
