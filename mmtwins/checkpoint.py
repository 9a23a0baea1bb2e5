"""Any public Twins state dict to native names and back, and what of it fits a model. Reads no files."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .resizing import fit_sr_kernels

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
    for key in ('state_dict', 'model'):
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
        ValueError: There is not exactly one Twins backbone in it.
    """
    fmt, prefix = recognise(state_dict)
    native = {}
    for name, value in state_dict.items():
        targets = native_names(name, fmt, prefix)
        parts = (value,) if len(targets) == 1 else value.split([len(value) // 3, len(value) // 3 * 2])
        native.update(zip(targets, parts, strict=True))
    if fmt == 'mmseg':  # without a bias of qkv, nn.MultiheadAttention has none of the output either
        for name in [name for name in native if name.endswith('.attn.q.weight')]:
            native.setdefault(name.replace('.q.weight', '.proj.bias'), native[name].new_zeros(len(native[name])))
    others = {name for name in native if not name.startswith(prefix)}
    if fmt == 'mmpretrain' and prefix and others and all(name.startswith('head.fc.') for name in others):
        native = {name.removeprefix(prefix).replace('head.fc.', 'head.'): value for name, value in native.items()}
        return _rename_final_norm(native, to='norm.')
    return native if f'{prefix}head.weight' in native else _rename_final_norm(native, prefix, to='norm_list.')


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
        native = _rename_final_norm(native, prefix, to='norm.')
    if fmt == 'mmpretrain' and is_classifier:
        native = _rename_final_norm(native, to='norm_list.')
        heads = {name.replace('head.', 'head.fc.'): native.pop(name) for name in ('head.weight', 'head.bias')}
        native = {f'backbone.{name}': value for name, value in native.items()} | heads
        prefix = 'backbone.'
    parts: dict[str, list[Tensor]] = {}
    for name, value in native.items():
        target = foreign_name(name, fmt, prefix, native)
        if target is not None:
            parts.setdefault(target, []).append(value)
    return {name: values[0] if len(values) == 1 else torch.cat(values) for name, values in parts.items()}


def trace(
    source: Mapping[str, Tensor], native: Mapping[str, Tensor], converted: Mapping[str, Tensor], fmt: str
) -> dict:
    """Where the tensors of a conversion went.

    Args:
        source: State dict before :func:`to_native`.
        native: What that returned.
        converted: What :func:`from_native` made of it.
        fmt: The format it was converted to.

    Returns:
        Names in ``source`` by name in ``converted``, several where tensors were joined; none where zeros stand in for
        a bias that ``source`` does not have.
    """
    prefix = recognise(native).prefix
    by_storage = {value.untyped_storage().data_ptr(): name for name, value in source.items()}
    joined: dict[str, list[str]] = {}
    for name in native:
        joined.setdefault(foreign_name(name, fmt, prefix, native), []).append(name)
    origins = {}
    for name, value in converted.items():
        parts = [value] if any(value is v for v in native.values()) else [native[part] for part in joined[name]]
        found = [by_storage.get(part.untyped_storage().data_ptr()) for part in parts]
        origins[name] = list(dict.fromkeys(source_name for source_name in found if source_name))
    return origins


def native_names(name: str, fmt: str, prefix: str = '') -> tuple[str, ...]:
    """Native names of one foreign tensor; two where it holds q, k and v, of q and of k and v together."""
    if not name.startswith(prefix):
        return (name,)
    name = name.removeprefix(prefix)
    for native, foreign in RENAMED.get(fmt, {}).items():
        renamed = _rename(name, foreign, native)
        if renamed != name:
            name = renamed
            break
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
    name = name.removeprefix(prefix)
    for start, foreign in RENAMED.get(fmt, {}).items():
        renamed = _rename(name, start, foreign)
        if renamed != name:
            return prefix + renamed
    return prefix + name


def _rename(name: str, start: str, other: str) -> str:
    """Replace the start of a name; the numbers that * stands for stay."""
    pattern = re.escape(start).replace(r'\*', r'(\d+)')
    replacement = other.replace('*', r'\1', 1).replace('*', r'\2', 1)
    return re.sub(f'^{pattern}', replacement, name)


def _rename_final_norm(native: dict[str, Tensor], prefix: str = '', *, to: str) -> dict[str, Tensor]:
    """Turn ``norm.*`` into the norm of the last stage or back, where that is the only norm of a stage."""
    last = f'{prefix}norm_list.{max(_stage_of(name.removeprefix(prefix)) for name in native)}.'
    norms = {name for name in native if name.startswith(f'{prefix}norm_list.')}
    if to == 'norm.' and all(name.startswith(last) for name in norms):
        return {name.replace(last, f'{prefix}norm.'): value for name, value in native.items()}
    if to == 'norm_list.' and not norms:
        return {re.sub(rf'^{re.escape(prefix)}norm\.', last, name): value for name, value in native.items()}
    return native


def _stage_of(name: str) -> int:
    """Number of the stage that a native name without prefix belongs to; -1 for none."""
    found = re.match(r'(?:patch_embeds|blocks|pos_block|norm_list)\.(\d+)\.', name)
    return int(found[1]) if found else -1


class Fit(NamedTuple):
    """Weights that fit a backbone, in native names without prefix, a summary in one line, and warnings."""

    weights: dict[str, Tensor]
    summary: str
    warnings: list[str]


def fit_backbone(state_dict: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Fit:
    """Pick the weights of a backbone out of any public Twins checkpoint.

    Documented differences are allowed: an ImageNet head, a final norm and stages after the last of ``out_indices``
    are dropped; norms of the stages start fresh where the checkpoint has none but a classifier's; sub-sampling kernels
    of another size are resized, see :func:`mmtwins.resizing.fit_sr_kernels`.

    Args:
        state_dict: Checkpoint in any format, of a backbone, a classifier or a whole dense model.
        expected: State dict of the backbone.

    Returns:
        The weights to load; a line that says what was recognised and how many tensors are loaded, dropped and left
        fresh; a warning for each sub-sampling ratio that differs, whose kernels are resized.

    Raises:
        ValueError: Nothing fits, or a weight is missing, surplus or of another shape; the first of them are named.
    """
    try:
        weights = unwrap(state_dict)
        fmt = recognise(weights).format
        whole = to_native(weights)
    except ValueError as error:
        name, value = next(iter(expected.items()))
        raise ValueError(
            f'no weight in the checkpoint fits the backbone, which looks for names and shapes such as {name} '
            f'{tuple(value.shape)}: {error}'
        ) from None
    prefix = recognise(whole).prefix
    native = {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}
    is_classifier = 'head.weight' in native
    last_built, last_stage = max(map(_stage_of, expected)), max(map(_stage_of, native))
    own_norms = {name for name in expected if name.startswith('norm_list.')}
    given_norms = {name for name in native if name.startswith('norm_list.')}
    final_norm = f'norm_list.{last_stage}.'
    if is_classifier and own_norms and all(name.startswith(final_norm) for name in own_norms):
        native = _rename_final_norm(native, to='norm_list.')  # the backbone norms its last stage only, as a classifier
        given_norms = {name for name in native if name.startswith('norm_list.')}
    elif all(name.startswith(final_norm) for name in given_norms) and given_norms != own_norms:
        native = _rename_final_norm(native, to='norm.')
        given_norms = set()
    dropped = {
        'head': {name for name in native if name.startswith('head.')},
        'final norm': {name for name in native if name.startswith('norm.')},
        'stages not built': {name for name in native if _stage_of(name) > last_built},
    }
    fresh = set() if given_norms else own_norms
    kept = {name: value for name, value in native.items() if not any(name in names for names in dropped.values())}
    kept, warnings = fit_sr_kernels(kept, expected)
    _check_weights(kept, {name: value for name, value in expected.items() if name not in fresh})
    counts = {kind: len(names) for kind, names in dropped.items()} | {'heads of the model': len(whole) - len(native)}
    what = 'whole model' if prefix else 'ImageNet classifier' if is_classifier and not given_norms else 'backbone'
    names = 'native (official, timm)' if fmt == 'native' else fmt
    drops = ', '.join(f'{kind} {count}' for kind, count in counts.items() if count)
    line = (
        f'Twins checkpoint recognised as {what} in {names} names: {len(kept)} tensors loaded into the backbone, '
        f'{sum(counts.values())} dropped{f" ({drops})" if drops else ""}, '
        f'{len(fresh)} left fresh{" (stage norms)" if fresh else ""}'
    )
    return Fit(kept, line, warnings)


def _check_weights(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that are not exactly the expected ones, naming the first that differ with both shapes."""
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    wrong = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
    if not wrong:
        return
    described = '; '.join(
        f'{name} is {shapes.get(name, "missing")} in the checkpoint, {wanted.get(name, "not there")} in the backbone'
        for name in wrong[:3]
    )
    fits = 'no weight' if len(wrong) >= len({**wanted, **shapes}) else 'not every weight'
    raise ValueError(
        f'{fits} in the checkpoint fits the backbone: {described}{f"; and {len(wrong) - 3} more" * (len(wrong) > 3)}. '
        f'The checkpoint holds {_describe(given)}, the backbone is {_describe(expected)}: choose backbone type, arch '
        'and options to match, or another checkpoint'
    )


def _describe(native: Mapping[str, Tensor]) -> str:
    """Family, widths and depths of a native state dict."""
    family = 'PCPVT' if any(name.startswith('blocks.0.0.attn.q.') for name in native) else 'SVT'
    dims, depths = {}, {}
    for name, value in native.items():
        part, stage, rest = [*name.split('.', 2), ''][:3]
        if part == 'patch_embeds' and rest == 'proj.weight':
            dims[stage] = len(value)
        elif part == 'blocks':
            depths[stage] = max(depths.get(stage, 0), 1 + int(rest.split('.')[0]))
    return f'{family} with embed_dims {tuple(dims.values())} and depths {tuple(depths.values())}'


def fit_model(checkpoint: Mapping[str, Any], expected: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Fit a checkpoint to a whole dense model: name its backbone as the model does, leave out heads that do not fit.

    Args:
        checkpoint: Any public Twins checkpoint, of a backbone, a classifier or a whole dense model.
        expected: State dict of the model.

    Returns:
        The weights to load, the backbone's still in their own format, and a line for each head that keeps its
        initial weights, because the checkpoint has none or another number of classes.

    Raises:
        ValueError: The backbone does not fit, see :func:`fit_backbone`, or a head is another one.
    """
    weights = unwrap(checkpoint)
    own = recognise(expected).prefix
    backbone = {name.removeprefix(own): value for name, value in expected.items() if name.startswith(own)}
    fit_backbone(weights, backbone)
    prefix = recognise(weights).prefix
    if prefix.endswith(own):
        outer = prefix.removesuffix(own)  # a wrapper's
        weights = {name.removeprefix(outer): value for name, value in weights.items()}
    else:
        weights = {own + name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    lines = []
    heads = {name: value for name, value in expected.items() if not name.startswith(own)}
    given = {name: value for name, value in weights.items() if not name.startswith(own)}
    for part in sorted({name.split('.')[0] for name in {**heads, **given}}):
        has = {name for name in given if name.startswith(f'{part}.')}
        needs = {name for name in heads if name.startswith(f'{part}.') and not name.endswith('num_batches_tracked')}
        if not has:
            lines.append(f'{part}: not in the checkpoint, left as initialised')
        elif not needs:
            lines.append(f'{part}: in the checkpoint, not in the model, dropped')
            weights = {name: value for name, value in weights.items() if name not in has}
        else:
            has = {name for name in has if not name.endswith('num_batches_tracked')}
            if has != needs:
                raise ValueError(
                    f'{part} is another one in the checkpoint: {len(needs - has)} weights are missing '
                    f'{sorted(needs - has)[:2]}, {len(has - needs)} surplus {sorted(has - needs)[:2]}. To take the '
                    "backbone only, name the checkpoint in the backbone's init_cfg"
                )
            resized = sorted(name for name in has if given[name].shape != heads[name].shape)
            for name in resized:
                ours, theirs = heads[name].shape, given[name].shape
                if ours[1:] != theirs[1:]:
                    raise ValueError(f'{name} is {tuple(theirs)} in the checkpoint, {tuple(ours)} in the model')
                del weights[name]
            for layer in sorted({name.rpartition('.')[0] for name in resized}):
                name = next(name for name in resized if name.startswith(f'{layer}.'))
                lines.append(
                    f'{layer}: {len(given[name])} outputs in the checkpoint, {len(heads[name])} in the model (another '
                    'number of classes), re-initialised'
                )
    return weights, lines
