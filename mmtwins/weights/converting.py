"""Any public Twins state dict to native names and back. Pure functions: state dict in, state dict out."""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .formats import CLASSIFIER, FORMATS, Format, recognise

SHARES = {'q': 1, 'kv': 2}  # of a joined tensor


def to_native(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a public Twins state dict to the names of this package.

    Args:
        state_dict: Weights of a backbone, a classifier or a whole dense model, in any of the formats.

    Returns:
        The same in native names. A whole dense model keeps its heads and the prefix of its backbone. A classifier
        has ``norm.*`` and ``head.*`` beside the bare backbone, as in the public code, also if it is mmpretrain's
        ``ImageClassifier`` around a backbone of this package. A final norm without a classifier becomes the norm of the
        last stage.

    Raises:
        ValueError: There is not exactly one Twins backbone in it, or a tensor does not divide into q, k and v.
    """
    name_of_format, prefix = recognise(state_dict)
    fmt = FORMATS[name_of_format]
    native: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        targets = _native_names(name, fmt, prefix)
        native.update(zip(targets, _split(name, value, targets)))
    if fmt.all_biases_or_none:
        for proj, q in _pairs_without_bias(native):
            native.setdefault(proj, native[q].new_zeros(len(native[q])))
    others = [name for name in native if not name.startswith(prefix)]
    backbone, head = CLASSIFIER
    head = prefix.removesuffix(backbone) + head
    if prefix.endswith(backbone) and others and all(name.startswith(head) for name in others):
        native = {name.removeprefix(prefix).replace(head, 'head.', 1): value for name, value in native.items()}
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
    return _rename(_without_needless_biases(state_dict, fmt), fmt)


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
    return from_native(_select(to_native(state_dict), fmt), fmt)


def trace(state_dict: Mapping[str, Tensor], fmt: str) -> dict[str, list[str]]:
    """Where :func:`convert` takes the tensors of a state dict.

    Args:
        state_dict: As that of :func:`convert`.
        fmt: As that of :func:`convert`.

    Returns:
        Names in ``state_dict`` by name in the converted one: two where tensors are joined, none where a bias is missing
        in ``state_dict`` and zeros are written for it.

    Raises:
        ValueError: As :func:`convert`.
    """
    names = list(state_dict)
    numbers = _select(to_native({name: torch.full((3,), i) for i, name in enumerate(names, start=1)}), fmt)
    kept = _without_needless_biases(_select(to_native(state_dict), fmt), fmt)
    renamed = _rename({name: numbers[name] for name in kept}, fmt)
    return {name: [names[i - 1] for i in value.unique().tolist() if i > 0] for name, value in renamed.items()}


def _select(native: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """What a format holds of a whole model: all, or the bare backbone."""
    prefix = recognise(native).prefix
    if fmt not in FORMATS or FORMATS[fmt].has_dense_models or not prefix:
        return dict(native)
    return {name.removeprefix(prefix): value for name, value in native.items() if name.startswith(prefix)}


def _rename(native: dict[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """Give native weights the names of a format, and join what it joins."""
    entry, prefix = FORMATS[fmt], recognise(native).prefix
    is_classifier = not prefix and 'head.weight' in native
    if not entry.has_dense_models and not is_classifier:
        native = rename_final_norm(native, prefix, to='norm.')
    backbone, head = entry.classifier
    if backbone and is_classifier:
        native = rename_final_norm(native, to='norm_list.')
        heads = {name.replace('head.', head, 1): native.pop(name) for name in ('head.weight', 'head.bias')}
        native = {f'{backbone}{name}': value for name, value in native.items()} | heads
        prefix = backbone
    sources: dict[str, list[str]] = {}
    for name in native:
        sources.setdefault(_foreign_name(name, entry, prefix, native), []).append(name)
    renamed = {}
    for target, found in sources.items():
        wanted = _native_names(target, entry, prefix)  # in the format's order, whatever their order here
        if len(wanted) == 1:
            renamed[target] = native[found[0]]
            continue
        missing = [name for name in wanted if name not in native]
        if missing:
            raise ValueError(f'{missing[0]} is missing beside {found[0]}')
        renamed[target] = torch.cat([native[name] for name in wanted])
    return renamed


def _without_needless_biases(state_dict: Mapping[str, Tensor], fmt: str) -> dict[str, Tensor]:
    """Native weights without the output biases that a format has no place for; raises ValueError if one is not zero."""
    if fmt not in FORMATS:
        raise ValueError(f'format {fmt!r} is unknown: choose one of {", ".join(FORMATS)}')
    found = recognise(state_dict).format
    if found != 'native':
        raise ValueError(f'the names are those of {found}, not native ones: convert them with to_native first')
    native = dict(state_dict)
    if FORMATS[fmt].all_biases_or_none:
        for proj, _ in _pairs_without_bias(native):
            if proj in native and native.pop(proj).any():
                raise ValueError(f"{proj}: {fmt}'s attention has no output bias where qkv_bias is False")
    return native


def _pairs_without_bias(native: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Names of the output bias and of q's weight, of each attention whose q has no bias."""
    weights = [name for name in native if name.endswith('.attn.q.weight')]
    blocks = [name.removesuffix('q.weight') for name in weights if f'{name.removesuffix("weight")}bias' not in native]
    return [(f'{block}proj.bias', f'{block}q.weight') for block in blocks]


def _split(name: str, value: Tensor, targets: list[str]) -> Iterable[Tensor]:
    """Cut a joined tensor into the parts that the native names say."""
    if len(targets) == 1:
        return [value]
    shares = [SHARES[target.split('.')[-2]] for target in targets]
    if value.dim() == 0 or len(value) % sum(shares):
        raise ValueError(f'{name} is {tuple(value.shape)}, which does not divide into q, k and v')
    return value.split([len(value) // sum(shares) * share for share in shares])


def _native_names(name: str, fmt: Format, prefix: str) -> list[str]:
    """Native names of a foreign tensor; several where it joins them."""
    if not name.startswith(prefix):
        return [name]
    for table in (fmt.renamed_gsa, fmt.renamed):
        starts: dict[str, list[str]] = {}
        for native, foreign in table.items():
            starts.setdefault(foreign, []).append(native)
        for foreign, natives in starts.items():
            names = [_replace_start(name.removeprefix(prefix), foreign, native) for native in natives]
            if names[0] is not None:
                return [f'{prefix}{native}' for native in names]
    return [name]


def _foreign_name(name: str, fmt: Format, prefix: str, native: Mapping[str, Tensor]) -> str:
    """Name of a native tensor in another format."""
    if not name.startswith(prefix):
        return name
    has_q = f'{name.partition(".attn.")[0]}.attn.q.weight' in native
    for table in (fmt.renamed_gsa if has_q else {}, fmt.renamed):
        for start, foreign in table.items():
            renamed = _replace_start(name.removeprefix(prefix), start, foreign)
            if renamed is not None:
                return prefix + renamed
    return name


def _replace_start(name: str, start: str, other: str) -> str | None:
    """Replace the start of a name, keeping the numbers that * stands for; None if it starts otherwise."""
    found = re.match(re.escape(start).replace(r'\*', r'(\d+)'), name)
    if found is None:
        return None
    for number in found.groups():
        other = other.replace('*', number, 1)
    return other + name[found.end() :]


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
