"""What of a checkpoint fits a model: everything, or what is documented, or an error that names the first misfits."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .formats import BLOCK, recognise, rename_final_norm, stage_of, to_native, unwrap
from .resizing import fit_sr_kernels

CLASSIFICATION_LAYER = re.compile(r'(?<!rpn_)(cls|seg|class|logits|fc_reg)[^.]*(\.\d+)*$')
AUXILIARY_HEAD = 'auxiliary_head'  # takes part in training only
LEFT, DROPPED, RENEWED = 'left as initialised', 'dropped', 're-initialised'


class Misfit(NamedTuple):
    """A part of a model or checkpoint, or a layer of it, that only one of the two has, or has in another size."""

    name: str
    what: str
    action: str  # LEFT, DROPPED or RENEWED

    def __str__(self) -> str:
        return f'{self.name}: {self.what}, {self.action}'


@dataclass(frozen=True)
class Fit:
    """What of a checkpoint is loaded into a model.

    Args:
        weights: To load.
        summary: What was recognised and loaded, in one line.
        warnings: A line each.
        misfits: Beside the backbone.
        num_head_tensors: Tensors among ``weights`` beside the backbone.
    """

    weights: dict[str, Tensor]
    summary: str
    warnings: list[str]
    misfits: tuple[Misfit, ...] = ()
    num_head_tensors: int = 0


def fit_backbone(state_dict: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Fit:
    """Pick the weights of a backbone out of any public Twins checkpoint.

    Documented differences are allowed: an ImageNet head, a final norm and stages after the last of ``out_indices``
    are dropped; norms of the stages start fresh where the checkpoint has none but a classifier's; sub-sampling kernels
    of another size are resized, see :func:`mmtwins.weights.resizing.fit_sr_kernels`.

    Args:
        state_dict: Checkpoint in any format, of a backbone, a classifier or a whole dense model.
        expected: State dict of the backbone.

    Returns:
        The weights to load in native names without prefix; a line that says what was recognised and how many tensors
        are loaded, dropped and left fresh; a warning for each sub-sampling ratio that differs, whose kernels are resized.

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
    last_built, last_stage = max(map(stage_of, expected)), count_stages(native) - 1
    own_norms = {name for name in expected if name.startswith('norm_list.')}
    given_norms = {name for name in native if name.startswith('norm_list.')}
    final_norm = f'norm_list.{last_stage}.'
    if is_classifier and own_norms and all(name.startswith(final_norm) for name in own_norms):
        native = rename_final_norm(native, to='norm_list.')  # the backbone norms its last stage only, as a classifier
        given_norms = {name for name in native if name.startswith('norm_list.')}
    elif all(name.startswith(final_norm) for name in given_norms) and given_norms != own_norms:
        native = rename_final_norm(native, to='norm.')
        given_norms = set()
    dropped = {
        'head': {'head.weight', 'head.bias'} & native.keys(),
        'final norm': {'norm.weight', 'norm.bias'} & native.keys(),
        'stages not built': {name for name in native if last_built < stage_of(name) <= last_stage},
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


def count_stages(native: Mapping[str, Tensor]) -> int:
    """Number of stages, from 0 on, whose patch embedding and first block are there."""
    stages = 0
    while all(f'{part}.weight' in native for part in (f'patch_embeds.{stages}.proj', f'blocks.{stages}.0.norm1')):
        stages += 1
    return stages


def _describe(native: Mapping[str, Tensor]) -> str:
    """Family, widths and depths of a native state dict."""
    family = 'PCPVT' if any(name.startswith('blocks.0.0.attn.q.') for name in native) else 'SVT'
    dims, depths = [], []
    for stage in range(count_stages(native)):
        dims.append(next(iter(native[f'patch_embeds.{stage}.proj.weight'].shape), 0))
        depths.append(len({name.split('.')[2] for name in native if name.startswith(f'blocks.{stage}.')}))
    return f'{family} with embed_dims {tuple(dims)} and depths {tuple(depths)}'


def fit_model(checkpoint: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Fit:
    """Fit a checkpoint to a whole dense model: name its backbone as the model does, leave out heads that do not fit.

    Args:
        checkpoint: Any public Twins checkpoint, of a backbone, a classifier or a whole dense model.
        expected: State dict of the model, with one Twins backbone, see :func:`has_one_backbone`.

    Returns:
        The weights to load, the backbone's still in their own format; a line that says what was recognised; a warning
        for each part that is left as initialised or dropped, because only one of the two has it or because the number
        of classes differs.

    Raises:
        ValueError: The backbone does not fit, see :func:`fit_backbone`, or a head is another one.
    """
    weights = unwrap(checkpoint)
    own = recognise(expected).prefix
    backbone = {name.removeprefix(own): value for name, value in expected.items() if name.startswith(own)}
    fit = fit_backbone(weights, backbone)
    prefix = recognise(weights).prefix
    if prefix.endswith(own):
        outer = prefix.removesuffix(own)  # a wrapper's
        weights = {name.removeprefix(outer): value for name, value in weights.items()}
    else:
        weights = {own + name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    heads = {name: value for name, value in expected.items() if not name.startswith(own)}
    given = {name: value for name, value in weights.items() if not name.startswith(own)}
    misfits: list[Misfit] = []
    for part in sorted({name.partition('.')[0] for name in {**heads, **given}}):
        found, left_out = _fit_head(
            part, *({n: v for n, v in d.items() if n.split('.')[0] == part} for d in (given, heads))
        )
        misfits += found
        weights = {name: value for name, value in weights.items() if name not in left_out}
    num_head_tensors = sum(name in heads for name in weights)
    loaded = f'{len(fit.weights)} tensors loaded into the backbone'
    summary = fit.summary.replace(loaded, f'{loaded} and {num_head_tensors} into the rest of the model')
    summary = re.sub(r'(, )?heads of the model \d+', '', summary)
    return Fit(weights, summary, [str(misfit) for misfit in misfits], tuple(misfits), num_head_tensors)


def check_heads(fit: Fit, allow_bare_backbone: bool = False) -> None:
    """Refuse heads to predict with that are not the checkpoint's.

    Args:
        fit: Of :func:`fit_model`.
        allow_bare_backbone: Whether a checkpoint without any head will do.

    Raises:
        ValueError: A head of the model, other than an auxiliary one, is not in the checkpoint or has other classes.
    """
    for misfit in fit.misfits:
        if misfit.action == DROPPED or misfit.name.startswith(AUXILIARY_HEAD):
            continue
        is_bare = misfit.action == LEFT and not fit.num_head_tensors
        if not (is_bare and allow_bare_backbone):
            remedy = 'give that of a whole model' if is_bare else 'give the config it was trained with'
            raise ValueError(f'{misfit.name}: {misfit.what}: {remedy}')


def _fit_head(part: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[list[Misfit], set[str]]:
    """Misfits of one part of a model beside its backbone, and the names in ``given`` that are not to be loaded."""
    if not given:
        return [Misfit(part, 'not in the checkpoint', LEFT)], set()
    if not expected:
        return [Misfit(part, 'in the checkpoint, not in the model', DROPPED)], set(given)
    shapes, wanted = ({name: tuple(value.shape) for name, value in tensors.items()} for tensors in (given, expected))
    wrong = sorted(name for name in wanted | shapes if shapes.get(name) != wanted.get(name))
    wrong = [name for name in wrong if not name.endswith('num_batches_tracked')]
    resized = [
        name
        for name in wrong
        if shapes.get(name) and wanted.get(name) and shapes[name][1:] == wanted[name][1:]
        if CLASSIFICATION_LAYER.search(name.rpartition('.')[0])
    ]
    others = [name for name in wrong if name not in resized]
    if others:
        described = '; '.join(
            f'{name} is {shapes.get(name, "missing")} in the checkpoint, {wanted.get(name, "not there")} in the model'
            for name in others[:3]
        )
        raise ValueError(
            f'{part} is another one in the checkpoint: {described}'
            f'{f"; and {len(others) - 3} more" * (len(others) > 3)}. '
            "To take the backbone only, name the checkpoint in the backbone's init_cfg"
        )
    layers = {name.rpartition('.')[0]: name for name in resized}
    misfits = [
        Misfit(
            layer,
            f'{shapes[name][0]} outputs in the checkpoint, {wanted[name][0]} in the model (another number of classes)',
            RENEWED,
        )
        for layer, name in layers.items()
    ]
    return misfits, set(resized)


def has_one_backbone(expected: Mapping[str, Tensor]) -> bool:
    """Whether a model has one Twins backbone, and not several (a student and a teacher) or another one."""
    return len({m[1] for m in map(BLOCK.match, expected) if m and f'{m[1]}patch_embeds.0.proj.weight' in expected}) == 1
