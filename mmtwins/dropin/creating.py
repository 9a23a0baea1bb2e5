"""``create_model``: Twins by the names of timm and of the public code, as timm's function of that name builds it."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..weights.pretrained import fetch_imagenet_weights
from .classifier import Twins
from .classifier_weights import adapt, load, read_classifier, to_timm
from .feature_maps import FeatureMaps
from .names import Named, look_up
from .public_code import PublicClassifier

OWN_WEIGHTS = ('file', 'state_dict')  # entries of pretrained_cfg_overlay that name a user's own weights
OTHER_SOURCES = ('url', 'hf_hub_id', 'hf_hub_filename', 'source', 'custom_load')
REMEDY = (
    'Load a file of yours with checkpoint_path=FILE, or save {web} as {path}, or start from random weights with '
    'pretrained=False'
)


def create_model(
    model_name: str,
    pretrained: bool = False,
    pretrained_cfg: str | Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    checkpoint_path: str | Path | None = None,
    *,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build Twins as ``timm.create_model`` does. It needs torch alone.

    Args:
        model_name: ``'twins_svt_small'`` and so on: the six models of timm, :class:`mmtwins.dropin.classifier.Twins`; or
            ``'alt_gvt_small'``, ``'pcpvt_small_v0'`` and so on: the six of the public code's gvt.py,
            :class:`mmtwins.dropin.public_code.PublicClassifier`.
        pretrained: Load the authors' ImageNet weights, those of ``timm/twins_*`` on the Hugging Face hub. With another
            ``num_classes`` or ``in_chans`` than theirs they are adapted as in timm.
        pretrained_cfg: ``'in1k'``, the one tag that timm has, or entries for ``default_cfg``.
        pretrained_cfg_overlay: More entries for ``default_cfg``; with ``file`` (path) or ``state_dict``, ``pretrained=True``
            takes these weights instead.
        checkpoint_path: File of weights that fit exactly, of any public format.
        features_only: Return maps, see :class:`mmtwins.dropin.feature_maps.FeatureMaps`.
        out_indices: The stages that it returns; all for None.
        device: Where to build the model.
        dtype: Type of its weights.
        **arguments: Those of the class, such as ``num_classes``, ``in_chans``, ``global_pool``, ``drop_path_rate``, ``wss``,
            ``window_padding`` or ``subsampling``; None counts as not given. ``exportable`` and ``no_jit`` of timm have no effect.

    Returns:
        The model, in training mode.

    Raises:
        FileNotFoundError: There is no such file of weights.
        OSError: No source of the ImageNet weights can be reached.
        ValueError: A name or argument is wrong, or weights do not fit.
    """
    named = look_up(model_name)
    if isinstance(pretrained, str | Path):
        raise ValueError(f'pretrained={pretrained!r}: give True or False; a file of weights goes into checkpoint_path')
    description = _describe(named, pretrained_cfg, pretrained_cfg_overlay)
    own = {key: description.pop(key) for key in OWN_WEIGHTS if key in description}
    model_class = PublicClassifier if named.is_public else Twins
    arguments = _check_arguments(model_class, arguments)
    arguments.setdefault('num_classes', 0 if features_only else description['num_classes'])
    arguments.setdefault('in_chans', description['input_size'][0])
    with nullcontext() if device is None else torch.device(device):
        model = model_class(**{**named.arguments, **arguments}).to(dtype=dtype)
    model.pretrained_cfg = model.default_cfg = description
    if pretrained:
        if 'state_dict' in own:
            weights = to_timm(own['state_dict'])
        else:
            weights = read_classifier(own['file'] if 'file' in own else fetch_imagenet_weights(named.weights, REMEDY))
        load(model, adapt(weights, model, description['num_classes']))
    if checkpoint_path is not None:
        load(model, read_classifier(checkpoint_path))
    return FeatureMaps(model, out_indices) if features_only else model


def _describe(
    named: Named, pretrained_cfg: str | Mapping[str, Any] | None, overlay: Mapping[str, Any] | None
) -> dict[str, Any]:
    """``default_cfg`` with the user's entries."""
    if isinstance(pretrained_cfg, str):
        if pretrained_cfg != 'in1k':
            raise ValueError(f'pretrained_cfg={pretrained_cfg!r}: in1k is the one tag that Twins has')
        pretrained_cfg = None
    entries = {**(pretrained_cfg or {}), **(overlay or {})}
    description = named.description
    allowed = (*description, *OWN_WEIGHTS)
    for key, value in entries.items():
        if key not in allowed:
            raise ValueError(f'pretrained_cfg has no entry {key!r}: it may have {", ".join(allowed)}')
        if key in OTHER_SOURCES and value != description[key]:
            raise ValueError(
                f"pretrained_cfg: {key}={value!r} is another source than the authors' weights: fetch the file and name it "
                'with file=PATH'
            )
    return {**description, **entries}


def _check_arguments(model_class: type[nn.Module], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are given, without those that timm has for other models."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if given.pop('scriptable', False):
        raise ValueError(
            'scriptable=True: torch.jit.script does not take this model: use torch.jit.trace or torch.export'
        )
    for name in ('scriptable', 'exportable', 'no_jit'):
        given.pop(name, None)
    if 'cache_dir' in given:
        raise ValueError(
            f'cache_dir={given["cache_dir"]!r}: set the environment variables HF_HOME and TORCH_HOME before Python starts'
        )
    known = [name for kind in (model_class, Twins) for name in inspect.signature(kind.__init__).parameters]
    known = sorted({*known} - {'self', 'arguments'})
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f'{unknown[0]}={given[unknown[0]]!r} is no argument of Twins: there are {", ".join(known)}')
    return given
