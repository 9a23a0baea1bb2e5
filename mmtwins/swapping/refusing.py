"""Which models cannot take Twins, and why."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..engine.config_sections import type_of


class CannotSwap(ValueError):
    """A model cannot take a Twins backbone; the message gives the reason."""


def _whole(paper: str) -> str:
    return f'its backbone is the method: {paper}'


# Backbones that are more than a feature extractor. The reasons are from their papers; running the models does not show them.
METHODS = {
    'BiSeNetV1': _whole("BiSeNet's spatial path and context path are fused inside it"),
    'BiSeNetV2': _whole("BiSeNet V2's detail and semantic branches are fused inside it, and its heads read both"),
    'CGNet': _whole("CGNet's context guided blocks are the network"),
    'DDRNet': _whole("DDRNet's two branches of different resolution exchange features inside it"),
    'ERFNet': _whole('ERFNet is an encoder and a decoder in one'),
    'FastSCNN': _whole('Fast-SCNN learns to downsample, extracts and fuses features inside it'),
    'ICNet': _whole("ICNet's cascade runs at three image sizes inside it"),
    'PIDNet': _whole("PIDNet's three branches exchange features inside it"),
    'STDCNet': _whole("STDC's short-term dense concatenation is the network"),
    'STDCContextPathNet': _whole("STDC's context path fuses features inside it, and its heads read its detail branch"),
    'UNet': _whole('U-Net is an encoder and a decoder in one, and its heads read maps at the full resolution'),
    'HourglassNet': _whole('the stacked hourglass gives one prediction per stack at stride 4'),
    'TridentResNet': _whole("TridentNet's branches of different dilation share weights in its last stage"),
    'VPD': _whole('VPD reads the features of a text-to-image diffusion model'),
}
# Heads that read something else than maps of features.
HEADS = {
    'DPTHead': 'its head DPTHead mixes the class token of a ViT into each map, and Twins has none',
    'LRASPPHead': 'its head LRASPPHead pools windows of 49 x 49 in the last map, which has stride 8; that of Twins has 32',
}
TEXT = ('language_model', 'text_encoder')


def check_model(model: Mapping[str, Any]) -> None:
    """Refuse models that encode images and text together, and models of other libraries.

    Args:
        model: Config of a whole model.

    Raises:
        CannotSwap: With the reason.
    """
    for part in parts_of(model):
        for key in TEXT:
            if isinstance(part.get(key), Mapping):
                raise CannotSwap(
                    f'it is a text-image model: {key} ({type_of(part[key])}) was trained together with the backbone'
                )
    if type_of(model) == 'Detectron2Wrapper':
        raise CannotSwap('Detectron2 builds the detector, not MMDetection')


def check_holder(holder: Mapping[str, Any]) -> None:
    """Refuse a segmentor or a detector whose backbone is the method itself, or is used by more than its neck and heads.

    Args:
        holder: Config with ``backbone``.

    Raises:
        CannotSwap: With the reason.
    """
    reason = METHODS.get(type_of(holder['backbone']))
    heads = holder.get('decode_head')
    for head in heads if isinstance(heads, list | tuple) else [heads]:
        reason = reason or HEADS.get(type_of(head or {}))
    if reason:
        raise CannotSwap(reason)
    for key, part in holder.items():
        if isinstance(part, Mapping) and isinstance(part.get('shared_head'), Mapping):
            raise CannotSwap(
                f'{key} owns the last stage of a ResNet (shared_head={type_of(part["shared_head"])}, a C4 head): take the '
                'config with FPN'
            )
        if isinstance(part, Mapping) and isinstance(part.get('rfp_backbone'), Mapping):
            raise CannotSwap(
                f'its {key} {type_of(part)} feeds its features back into the backbone, of which it holds a second one'
            )


def parts_of(part: Any) -> Iterator[Any]:
    """The dicts in a part of a config, and itself if it is one."""
    if isinstance(part, Mapping):
        yield part
        for value in part.values():
            yield from parts_of(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from parts_of(value)
