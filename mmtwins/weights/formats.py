"""Any public Twins state dict to native names and back. Pure functions: state dict in, state dict out."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORMATS = ('native', 'timm', 'mmseg', 'mmpretrain')
# Starts of names, native and foreign, the more specific ones first; * is the number of a stage or block.
RENAMED = {
    'mmseg': {
        'patch_embeds.*.proj.': 'patch_embeds.*.projection.',
        'pos_block.*.proj.0.': 'position_encodings.*.proj.',
        'blocks.*.*.mlp.fc1.': 'layers.*.*.ffn.layers.0.0.',
        'blocks.*.*.mlp.fc2.': 'layers.*.*.ffn.layers.1.',
        'blocks.*.*.': 'layers.*.*.',
    },
    'mmpretrain': {
        'patch_embeds.*.proj.': 'patch_embeds.*.projection.',
        'pos_block.*.proj.0.': 'position_encodings.*.proj.',
        'blocks.*.*.mlp.fc1.': 'stages.*.*.ffn.layers.0.0.',
        'blocks.*.*.mlp.fc2.': 'stages.*.*.ffn.layers.1.',
        'blocks.*.*.': 'stages.*.*.',
        'norm_list.*.': 'norm_after_stage*.',
    },
}
BLOCK = re.compile(r'((?:\w+\.)*?)(blocks|layers|stages)\.\d+\.\d+\.(?:norm1|norm2|attn|mlp|ffn)\.')


class Recognition(NamedTuple):
    """What a state dict is: the format of its Twins backbone, and the prefix of its names, ``''`` or ``'x.'``."""

    format: str
    prefix: str


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint by name.

    Args:
        checkpoint: A state dict, or what a training program saved: one under ``'state_dict'`` or ``'model'``.

    Returns:
        Its tensors, without the ``module.`` of data-parallel wrappers.

    Raises:
        ValueError: There is no dict of weights by name in it.
    """
    for key in ('state_dict', 'model', 'state_dict'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    items = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    weights = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise ValueError('it is no checkpoint: it holds no dict of weights by name')
    return {name.removeprefix('module.'): value for name, value in weights.items()}


def recognise(state_dict: Mapping[str, Tensor]) -> Recognition:
    """Recognise the format of a Twins checkpoint from the names of its blocks.

    Args:
        state_dict: Weights by name, of a backbone, a classifier or a whole dense model.

    Returns:
        The format, ``'native'`` (the public code's and timm's names too), ``'mmseg'`` or ``'mmpretrain'``, and the
        prefix of the backbone.

    Raises:
        ValueError: There is no Twins backbone in it, or more than one.
    """
    formats = {'blocks': 'native', 'layers': 'mmseg', 'stages': 'mmpretrain'}
    found = {Recognition(formats[m[2]], m[1]) for m in map(BLOCK.match, state_dict) if m}
    if len(found) > 1:  # a transformer head may have such layers too, but no patch embeddings
        found = {r for r in found if any(name.startswith(f'{r.prefix}patch_embeds.') for name in state_dict)}
    if len(found) == 1:
        return found.pop()
    names = ', '.join(f'{name} {tuple(value.shape)}' for name, value in list(state_dict.items())[:3])
    if not found:
        raise ValueError(f'no Twins backbone is in the checkpoint, which has {names or "no weights"}')
    prefixes = ', '.join(sorted(repr(f'{r.prefix} ({r.format})') for r in found))
    raise ValueError(f'more than one backbone is in the checkpoint, under the prefixes {prefixes}: keep one')


def to_native(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a public Twins state dict to the names of this package.

    Args:
        state_dict: Weights of a backbone, a classifier or a whole dense model, in any of the formats.

    Returns:
        The same in native names. A whole dense model keeps its heads and the prefix of its backbone. A classifier
        has ``norm.*`` and ``head.*`` beside the bare backbone, as in the public code. A final norm without a
        classifier becomes the norm of the last stage.

    Raises:
        ValueError: There is not exactly one Twins backbone in it, or a tensor does not divide into q, k and v.
    """
    fmt, prefix = recognise(state_dict)
    native = {}
    for name, value in state_dict.items():
        targets = native_names(name, fmt, prefix)
        if len(targets) == 2:
            if value.dim() == 0 or len(value) % 3:
                raise ValueError(f'{name} is {tuple(value.shape)}, which does not divide into q, k and v')
            native.update(zip(targets, value.split([len(value) // 3, len(value) // 3 * 2]), strict=True))
        else:
            native[targets[0]] = value
    if fmt == 'mmseg':  # without a bias of qkv, nn.MultiheadAttention has none of the output either
        for name in [name for name in native if name.endswith('.attn.q.weight')]:
            if name.replace('.q.weight', '.q.bias') not in native:
                native.setdefault(name.replace('.q.weight', '.proj.bias'), native[name].new_zeros(len(native[name])))
    others = {name for name in native if not name.startswith(prefix)}
    if fmt == 'mmpretrain' and prefix and others and all(name.startswith('head.fc.') for name in others):
        native = {name.removeprefix(prefix).replace('head.fc.', 'head.'): value for name, value in native.items()}
        return rename_final_norm(native, to='norm.')
    return native if f'{prefix}head.weight' in native else rename_final_norm(native, prefix, to='norm_list.')


def from_native(state_dict: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """Convert a native state dict to the names of another library, the inverse of :func:`to_native`.

    Args:
        state_dict: Weights in native names, as :func:`to_native` returns them.
        fmt: One of :data:`FORMATS`.

    Returns:
        The same in the names of ``fmt``. What has no place there (timm: norms of other stages than the last; mmseg:
        a classifier) keeps its native name.

    Raises:
        ValueError: ``fmt`` is unknown, the names are not native, or mmseg's attention cannot hold the weights.
    """
    if fmt not in FORMATS:
        raise ValueError(f'format {fmt!r} is unknown: choose one of {", ".join(FORMATS)}')
    found, prefix = recognise(state_dict)
    if found != 'native':
        raise ValueError(f'the names are those of {found}, not native ones: convert them with to_native first')
    native = dict(state_dict)
    is_classifier = not prefix and 'head.weight' in native
    if fmt == 'timm' and not is_classifier:
        native = rename_final_norm(native, prefix, to='norm.')
    if fmt == 'mmpretrain' and is_classifier:
        native = rename_final_norm(native, to='norm_list.')
        heads = {name.replace('head.', 'head.fc.'): native.pop(name) for name in ('head.weight', 'head.bias')}
        native = {f'backbone.{name}': value for name, value in native.items()} | heads
        prefix = 'backbone.'
    parts: dict[str, list[Tensor]] = {}
    for name, value in native.items():
        target = foreign_name(name, fmt, prefix, native)
        if '.attn.attn.in_proj_' in (target or '') and target not in parts:  # q before kv, whatever their order here
            kind = name.rpartition('.')[2]
            pair = [f'{name.rpartition(".attn.")[0]}.attn.{part}.{kind}' for part in ('q', 'kv')]
            missing = [part for part in pair if part not in native]
            if missing:
                raise ValueError(f'{missing[0]} is missing beside {name}')
            parts[target] = [native[part] for part in pair]
        elif target is not None:
            parts.setdefault(target, [value])
    return {name: values[0] if len(values) == 1 else torch.cat(values) for name, values in parts.items()}


def convert(state_dict: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """Convert any public Twins state dict to a format, see :func:`to_native` and :func:`from_native`.

    Args:
        state_dict: Weights of a backbone, a classifier or a whole dense model, in any of the formats.
        fmt: One of :data:`FORMATS`. timm has no dense models, so it gets the bare backbone of one.

    Returns:
        The same in the names of ``fmt``.

    Raises:
        ValueError: As the two.
    """
    native = to_native(state_dict)
    prefix = recognise(native).prefix
    if fmt == 'timm' and prefix:
        native = {name.removeprefix(prefix): value for name, value in native.items() if name.startswith(prefix)}
    return from_native(native, fmt)


def trace(state_dict: Mapping[str, Tensor], fmt: str) -> dict[str, list[str]]:
    """Where :func:`convert` takes the tensors of a state dict.

    Args:
        state_dict: As that of :func:`convert`.
        fmt: As that of :func:`convert`.

    Returns:
        Names in ``state_dict`` by name in the converted one, two where tensors are joined, none where zeros stand in for
        a bias that ``state_dict`` does not have.

    Raises:
        ValueError: As :func:`convert`.
    """
    names = list(state_dict)
    numbers = {name: torch.full((3,), i) for i, name in enumerate(names, start=1)}
    for name, value in state_dict.items():
        if name.endswith('.attn.proj.bias') and not value.any():
            numbers[name].zero_()  # a bias of zeros has no place in mmseg, where qkv_bias is False, and needs none
    return {
        name: [names[i - 1] for i in value.unique().tolist() if i > 0] for name, value in convert(numbers, fmt).items()
    }


def native_names(name: str, fmt: str, prefix: str = '') -> tuple[str, ...]:
    """Native names of one foreign tensor; two where it holds q, k and v, of q and of k and v together."""
    if not name.startswith(prefix):
        return (name,)
    name = _rename_first(name.removeprefix(prefix), [(new, old) for old, new in RENAMED.get(fmt, {}).items()])
    if fmt == 'mmseg':
        name = name.replace('.attn.attn.out_proj.', '.attn.proj.')
        attention, joined, kind = name.partition('.attn.attn.in_proj_')
        if joined:
            return tuple(f'{prefix}{attention}.attn.{part}.{kind}' for part in ('q', 'kv'))
    return (prefix + name,)


def foreign_name(name: str, fmt: str, prefix: str, native: Mapping[str, Tensor]) -> str | None:
    """Name of a native tensor in another format; None where it has no place and, being zero, needs none."""
    if not name.startswith(prefix):
        return name
    attention, _, rest = name.partition('.attn.')
    if fmt == 'mmseg' and f'{attention}.attn.q.weight' in native:
        part, _, kind = rest.partition('.')
        if part in ('q', 'kv'):
            name = f'{attention}.attn.attn.in_proj_{kind}'
        elif part == 'proj':
            if kind == 'bias' and f'{attention}.attn.q.bias' not in native:
                if native[name].any():
                    raise ValueError(f"{name}: mmseg's attention has no output bias where qkv_bias is False")
                return None
            name = f'{attention}.attn.attn.out_proj.{kind}'
    return prefix + _rename_first(name.removeprefix(prefix), RENAMED.get(fmt, {}).items())


def _rename_first(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Replace the start of a name by the first pair (start, other) that fits; the numbers that * stands for stay."""
    for start, other in pairs:
        pattern = re.escape(start).replace(r'\*', r'(\d+)')
        renamed, found = re.subn(f'^{pattern}', other.replace('*', r'\1', 1).replace('*', r'\2', 1), name)
        if found:
            return renamed
    return name


def rename_final_norm(native: dict[str, Tensor], prefix: str = '', *, to: str) -> dict[str, Tensor]:
    """Turn ``norm.*`` into the norm of the last stage or back, where that is the only norm of a stage."""
    last = f'{prefix}norm_list.{max(stage_of(name.removeprefix(prefix)) for name in native)}.'
    norms = {name for name in native if name.startswith(f'{prefix}norm_list.')}
    if to == 'norm.' and all(name.startswith(last) for name in norms):
        return {name.replace(last, f'{prefix}norm.'): value for name, value in native.items()}
    if to == 'norm_list.' and not norms:
        return {re.sub(rf'^{re.escape(prefix)}norm\.', last, name): value for name, value in native.items()}
    return native


def stage_of(name: str) -> int:
    """Number of the stage that a native name without prefix belongs to; -1 for none."""
    found = re.match(r'(?:patch_embeds|blocks|pos_block|norm_list)\.(\d+)\.', name)
    return int(found[1]) if found else -1
