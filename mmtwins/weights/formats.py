"""The formats of public Twins checkpoints, and how one is recognised.

A format is one entry in :data:`FORMATS`; nothing else in the package knows its names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Format:
    """How a library names the weights of Twins.

    Names are given by their starts; ``*`` is the number of a stage or block. The more specific start comes first.

    Args:
        blocks: Name of the list of blocks; the format is recognised by it.
        renamed: Starts of names in this format, by native start.
        renamed_gsa: The same for attention with separate q and kv. Native starts with one foreign start are joined
            along the first axis, in this order.
        all_biases_or_none: Whether attention without a bias of q has no output bias either.
        classifier: Prefix of the backbone and start of the head's names in an ImageNet classifier that is written.
        has_dense_models: Whether the library has whole dense models and norms after stages; else it gets bare backbones.
    """

    blocks: str
    renamed: Mapping[str, str] = field(default_factory=dict)
    renamed_gsa: Mapping[str, str] = field(default_factory=dict)
    all_biases_or_none: bool = False
    classifier: tuple[str, str] = ('', 'head.')
    has_dense_models: bool = True


# Prefix of the backbone and start of the head's names in mmpretrain's ImageClassifier, whatever its backbone.
CLASSIFIER = ('backbone.', 'head.fc.')
FORMATS = {
    'native': Format(blocks='blocks'),  # the public code's names
    'timm': Format(blocks='blocks', has_dense_models=False),
    'mmseg': Format(
        blocks='layers',
        renamed={
            'patch_embeds.*.proj.': 'patch_embeds.*.projection.',
            'pos_block.*.proj.0.': 'position_encodings.*.proj.',
            'blocks.*.*.mlp.fc1.': 'layers.*.*.ffn.layers.0.0.',
            'blocks.*.*.mlp.fc2.': 'layers.*.*.ffn.layers.1.',
            'blocks.*.*.': 'layers.*.*.',
        },
        renamed_gsa={  # nn.MultiheadAttention
            'blocks.*.*.attn.q.': 'layers.*.*.attn.attn.in_proj_',
            'blocks.*.*.attn.kv.': 'layers.*.*.attn.attn.in_proj_',
            'blocks.*.*.attn.proj.': 'layers.*.*.attn.attn.out_proj.',
        },
        all_biases_or_none=True,
    ),
    'mmpretrain': Format(
        blocks='stages',
        renamed={
            'patch_embeds.*.proj.': 'patch_embeds.*.projection.',
            'pos_block.*.proj.0.': 'position_encodings.*.proj.',
            'blocks.*.*.mlp.fc1.': 'stages.*.*.ffn.layers.0.0.',
            'blocks.*.*.mlp.fc2.': 'stages.*.*.ffn.layers.1.',
            'blocks.*.*.': 'stages.*.*.',
            'norm_list.*.': 'norm_after_stage*.',
        },
        classifier=CLASSIFIER,
    ),
}
# The first format with a word stands for all of them: timm's names are native.
FORMAT_OF_BLOCKS = {entry.blocks: name for name, entry in reversed(FORMATS.items())}
BLOCK = re.compile(
    rf'((?:\w+\.)*?)({"|".join(FORMAT_OF_BLOCKS)})\.\d+\.\d+\.(?:norm1|norm2|attn|mlp|ffn)\.',
)
# Parts of names that wrappers add: data parallel and EMA, torch.compile, FSDP, activation checkpointing.
WRAPPER = re.compile(r'(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
COUNTERS = {'steps', 'n_averaged'}  # of MMEngine's and PyTorch's averaged models


class Recognition(NamedTuple):
    """What a state dict is: the format of its Twins backbone, and the prefix of its names, ``''`` or ``'x.'``."""

    format: str
    prefix: str


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint by name.

    Args:
        checkpoint: A state dict, or what a training program saved: one under ``'state_dict'`` or ``'model'``.

    Returns:
        Its tensors, without what wrappers add to names, see :func:`strip_wrappers`.

    Raises:
        ValueError: There is no dict of weights by name in it, or two names differ by wrappers only.
    """
    for key in ('state_dict', 'model', 'state_dict'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    items = checkpoint.items() if isinstance(checkpoint, Mapping) else ()
    weights = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        raise ValueError('it is no checkpoint: it holds no dict of weights by name')
    others = weights.keys() - COUNTERS
    if others and all(name.startswith('module.') for name in others):
        weights = {name: value for name, value in weights.items() if name in others}
    sources: dict[str, str] = {}
    for name in weights:
        first = sources.setdefault(strip_wrappers(name), name)
        if first != name:
            raise ValueError(f'the checkpoint holds two models, with {first} and {name}: keep one')
    return {stripped: weights[name] for stripped, name in sources.items()}


def strip_wrappers(name: str) -> str:
    """Remove the parts of a name that wrappers add: ``module``, ``_orig_mod`` and those of FSDP, wherever they are."""
    return WRAPPER.sub('', name)


def recognise(state_dict: Mapping[str, Tensor]) -> Recognition:
    """Recognise the format of a Twins checkpoint from the names of its blocks.

    Args:
        state_dict: Weights by name, of a backbone, a classifier or a whole dense model.

    Returns:
        The format, the first of :data:`FORMATS` with these names (timm's are native), and the prefix of the backbone.

    Raises:
        ValueError: There is no Twins backbone in it, or more than one.
    """
    found = {Recognition(FORMAT_OF_BLOCKS[m[2]], m[1]) for m in map(BLOCK.match, state_dict) if m}
    if len(found) > 1:  # a transformer head may have such layers too, but no patch embeddings
        found = {r for r in found if any(name.startswith(f'{r.prefix}patch_embeds.') for name in state_dict)}
    if len(found) == 1:
        return found.pop()
    names = ', '.join(f'{name} {tuple(value.shape)}' for name, value in list(state_dict.items())[:3])
    if not found:
        raise ValueError(f'no Twins backbone is in the checkpoint, which has {names or "no weights"}')
    prefixes = ', '.join(sorted(repr(f'{r.prefix} ({r.format})') for r in found))
    raise ValueError(f'more than one backbone is in the checkpoint, under the prefixes {prefixes}: keep one')
