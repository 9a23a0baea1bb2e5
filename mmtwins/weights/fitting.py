"""What of a checkpoint fits a model: everything, or what is documented, or an error that names the first misfits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .converting import rename_final_norm, stage_of, to_native
from .formats import BLOCK, CLASSIFIER, recognise, strip_wrappers, unwrap
from .resizing import KernelChange, fit_sr_kernels

CLASSIFICATION_LAYER = re.compile(r'(?<!rpn_)(cls|seg|class|logits|fc_reg)[^.]*(\.\d+)*$|^head\.fc$')
AUXILIARY_HEAD = 'auxiliary_head'  # takes part in training only
LEFT, DROPPED, RENEWED = 'left as initialised', 'dropped', 're-initialised'


class Misfit(NamedTuple):
    """A part of a model or checkpoint, or a layer of it, that only one of the two has, or has in another size.

    Args:
        name: Of the part or layer.
        action: ``LEFT`` (only the model has it), ``DROPPED`` (only the checkpoint has it) or ``RENEWED``.
        outputs: Number of outputs in the checkpoint and in the model, if renewed.
    """

    name: str
    action: str
    outputs: tuple[int, int] | None = None

    @property
    def what(self) -> str:
        """What does not fit, in words."""
        if self.action == LEFT:
            return 'not in the checkpoint'
        if self.outputs is None:
            return 'in the checkpoint, not in the model'
        given, wanted = self.outputs
        return f'{given} outputs in the checkpoint, {wanted} in the model (another number of classes)'


@dataclass(frozen=True)
class Fit:
    """What of a checkpoint is loaded into a model; :mod:`mmtwins.weights.reporting` says it in words.

    Args:
        weights: To load, by the model's own names.
        format: Recognised format, one of :data:`mmtwins.weights.formats.FORMATS`.
        kind: ``'backbone'``, ``'ImageNet classifier'`` or ``'whole model'``.
        num_backbone: Tensors of ``weights`` in the backbone.
        num_heads: Tensors of ``weights`` beside the backbone.
        dropped: Number of tensors of the checkpoint that are not loaded, by kind; no kind has none.
        fresh: Names of the backbone's stage norms that keep their initial values.
        changes: Sub-samplings of another size or kind.
        misfits: Beside the backbone.
    """

    weights: dict[str, Tensor]
    format: str
    kind: str
    num_backbone: int
    num_heads: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    fresh: tuple[str, ...] = ()
    changes: tuple[KernelChange, ...] = ()
    misfits: tuple[Misfit, ...] = ()

    def suits(self, expected: Mapping[str, Tensor]) -> bool:
        """Whether a model with this state dict has a place for every weight."""
        return all(name in expected and value.shape == expected[name].shape for name, value in self.weights.items())


class _Parts(NamedTuple):
    """A checkpoint taken apart, in native names: its backbone's format, prefix and weights, and what is beside it."""

    format: str
    prefix: str
    backbone: dict[str, Tensor]
    others: dict[str, Tensor]


def fit_backbone(state_dict: Mapping[str, Any], expected: Mapping[str, Tensor]) -> Fit:
    """Pick the weights of a backbone out of any public Twins checkpoint.

    Documented differences are allowed: an ImageNet head, a final norm and stages after the last of ``out_indices``
    are dropped; norms of the stages start fresh where the checkpoint has none but a classifier's; sub-samplings of another
    size or kind are fitted, see :func:`mmtwins.weights.resizing.fit_sr_kernels`.

    Args:
        state_dict: Checkpoint in any format, of a backbone, a classifier or a whole dense model.
        expected: State dict of the backbone.

    Returns:
        What is loaded, dropped and left fresh.

    Raises:
        ValueError: Nothing fits, or a weight is missing, surplus or of another shape; the first of them are named.
    """
    return _fit_backbone(_take_apart(state_dict, expected), expected)


def _take_apart(checkpoint: Mapping[str, Any], expected: Mapping[str, Tensor]) -> _Parts:
    """Find the backbone in a checkpoint; ``expected`` is the model's, for the error message."""
    try:
        weights = unwrap(checkpoint)
        fmt = recognise(weights).format
        native = to_native(weights)
    except ValueError as error:
        name, value = next(iter(expected.items()))
        raise ValueError(
            f'no weight in the checkpoint fits the backbone, which looks for names and shapes such as {name} '
            f'{tuple(value.shape)}: {error}'
        ) from None
    prefix = recognise(native).prefix
    backbone = {name.removeprefix(prefix): value for name, value in native.items() if name.startswith(prefix)}
    return _Parts(fmt, prefix, backbone, {name: native[name] for name in native if not name.startswith(prefix)})


def _fit_backbone(parts: _Parts, expected: Mapping[str, Tensor]) -> Fit:
    """Fit the backbone; the rest of the checkpoint counts as dropped."""
    names = {strip_wrappers(name): name for name in expected}
    expected = {name: expected[own] for name, own in names.items()}
    native = parts.backbone
    is_classifier = 'head.weight' in native
    last_built, last_stage = max(map(stage_of, expected)), count_stages(native) - 1
    own_norms = {name for name in expected if name.startswith('norm_list.')}
    given_norms = {name for name in native if name.startswith('norm_list.')}
    final_norm = f'norm_list.{last_stage}.'
    if is_classifier and own_norms and all(name.startswith(final_norm) for name in own_norms):
        native = rename_final_norm(native, to='norm_list.')  # the backbone norms its last stage only, as a classifier
    elif all(name.startswith(final_norm) for name in given_norms) and given_norms != own_norms:
        native = rename_final_norm(native, to='norm.')
        given_norms = set()
    dropped = {
        'head': {'head.weight', 'head.bias'} & native.keys(),
        'final norm': {'norm.weight', 'norm.bias'} & native.keys(),
        'stages not built': {name for name in native if last_built < stage_of(name) <= last_stage},
    }
    fresh = set() if any(name.startswith('norm_list.') for name in native) else own_norms
    kept = {name: value for name, value in native.items() if not any(name in names for names in dropped.values())}
    kept, changes = fit_sr_kernels(kept, expected)
    check_weights(kept, {name: value for name, value in expected.items() if name not in fresh})
    kind = 'ImageNet classifier' if is_classifier and not given_norms else 'backbone'
    kind = 'whole model' if parts.prefix else kind
    counts = {what: len(found) for what, found in dropped.items()} | {'heads of the model': len(parts.others)}
    return Fit(
        weights={names[name]: value for name, value in kept.items()},
        format=parts.format,
        kind=kind,
        num_backbone=len(kept),
        dropped={what: count for what, count in counts.items() if count},
        fresh=tuple(names[name] for name in expected if name in fresh),
        changes=changes,
    )


def check_weights(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], owner: str = 'backbone') -> None:
    """Refuse weights that are not exactly the expected ones, naming the first that differ with both shapes.

    Args:
        given: Of a checkpoint, by native names.
        expected: Of the model.
        owner: What the model is, for the message.

    Raises:
        ValueError: One is missing, surplus or of another shape.
    """
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    wanted = {name: tuple(value.shape) for name, value in expected.items()}
    wrong = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
    if not wrong:
        return
    fits = 'no weight' if len(wrong) >= len({**wanted, **shapes}) else 'not every weight'
    raise ValueError(
        f'{fits} in the checkpoint fits the {owner}: {_compare(wrong, shapes, wanted, owner)}. '
        f'The checkpoint holds {_describe(given)}, the {owner} is {_describe(expected)}: choose {owner} type, arch '
        'and options to match, or another checkpoint'
    )


def _compare(wrong: Sequence[str], given: Mapping[str, tuple], wanted: Mapping[str, tuple], owner: str) -> str:
    """Both shapes of the first weights that differ."""
    described = '; '.join(
        f'{name} is {given.get(name, "missing")} in the checkpoint, {wanted.get(name, "not there")} in the {owner}'
        for name in wrong[:3]
    )
    return described + f'; and {len(wrong) - 3} more' * (len(wrong) > 3)


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
    """Fit a checkpoint to a whole model: name its backbone as the model does, leave out heads that do not fit.

    The head of a classifier fits mmpretrain's ``ImageClassifier``.

    Args:
        checkpoint: Any public Twins checkpoint, of a backbone, a classifier or a whole dense model.
        expected: State dict of the model, with one Twins backbone, see :func:`has_one_backbone`, or of a bare one.

    Returns:
        What is loaded, dropped and left fresh, with a misfit for each part that only one of the two has or that has
        another number of classes.

    Raises:
        ValueError: The backbone does not fit, see :func:`fit_backbone`, or a head is another one.
    """
    names = {strip_wrappers(name): name for name in expected}
    own = recognise({name: expected[names[name]] for name in names}).prefix
    backbone = {name.removeprefix(own): expected[names[name]] for name in names if name.startswith(own)}
    parts = _take_apart(checkpoint, backbone)
    fit = _fit_backbone(parts, backbone)
    heads = {name: expected[names[name]] for name in names if not name.startswith(own)}
    outer = parts.prefix.removesuffix(own)  # of a wrapper: a teacher, a student, an average
    given, dropped = {}, dict(fit.dropped)
    if own and parts.prefix.endswith(own):
        given = {name.removeprefix(outer): value for name, value in parts.others.items()}
    elif own == CLASSIFIER[0] and f'{CLASSIFIER[1]}weight' in heads and not parts.prefix:
        head = {name: value for name, value in parts.backbone.items() if name.startswith('head.')}
        given = {name.replace('head.', CLASSIFIER[1], 1): value for name, value in head.items()}
        dropped.pop('head', None)
    misfits: list[Misfit] = []
    left_out: set[str] = set()
    for part in sorted({name.partition('.')[0] for name in {**heads, **given}}):
        found, names_left = _fit_head(
            part, *({n: v for n, v in d.items() if n.split('.')[0] == part} for d in (given, heads))
        )
        misfits += found
        left_out |= names_left
    loaded = {name: value for name, value in given.items() if name in heads and name not in left_out}
    dropped['heads of the model'] = len(given or parts.others) - len(loaded)
    return replace(
        fit,
        weights={names[own + name]: value for name, value in fit.weights.items()}
        | {names[name]: value for name, value in loaded.items()},
        num_heads=len(loaded),
        dropped={kind: count for kind, count in dropped.items() if count},
        fresh=tuple(names[own + name] for name in fit.fresh),
        misfits=tuple(misfits),
    )


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
        is_bare = misfit.action == LEFT and not fit.num_heads
        if not (is_bare and allow_bare_backbone):
            remedy = 'give that of a whole model of this kind' if is_bare else 'give the config it was trained with'
            raise ValueError(f'{misfit.name}: {misfit.what}: {remedy}')


def _fit_head(part: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> tuple[list[Misfit], set[str]]:
    """Misfits of one part of a model beside its backbone, and the names in ``given`` that are not to be loaded."""
    if not given:
        return [Misfit(part, LEFT)], set()
    if not expected:
        return [Misfit(part, DROPPED)], set(given)
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
        raise ValueError(
            f'{part} is another one in the checkpoint: {_compare(others, shapes, wanted, "model")}. '
            "To take the backbone only, name the checkpoint in the backbone's init_cfg"
        )
    layers = {name.rpartition('.')[0]: name for name in resized}
    misfits = [Misfit(layer, RENEWED, (shapes[name][0], wanted[name][0])) for layer, name in layers.items()]
    return misfits, set(resized)


def has_one_backbone(expected: Mapping[str, Tensor]) -> bool:
    """Whether a model has one Twins backbone, and not several (a student and a teacher) or another one."""
    names = {strip_wrappers(name) for name in expected}
    return len({m[1] for m in map(BLOCK.match, names) if m and f'{m[1]}patch_embeds.0.proj.weight' in names}) == 1


def check_values(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse weights that no training gives.

    Args:
        weights: Read from a file, by the model's names.
        expected: State dict of the model.

    Raises:
        ValueError: A weight is infinite, no number or an integer; the first is named.
    """
    for name, value in weights.items():
        if not expected[name].is_floating_point():
            continue
        if not value.is_floating_point():
            raise ValueError(f'{name} holds {str(value.dtype).removeprefix("torch.")} numbers, a weight has fractions')
        if not torch.isfinite(value).all():
            raise ValueError(f'{name} holds numbers that are not finite (NaN or infinity): take an earlier checkpoint')
