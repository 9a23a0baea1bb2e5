"""The names of models: those of timm and of the public code, what they stand for, and how timm describes them."""

import re
from typing import Any, NamedTuple

from ..models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES

SIZES = ('small', 'base', 'large')
TIMM_NAMES = tuple(f'twins_{family}_{size}' for family in ('pcpvt', 'svt') for size in SIZES)
PUBLIC_NAMES = tuple(f'{name}_{size}' for name in ('alt_gvt', 'pcpvt') for size in SIZES)
# As timm takes them: with the tag of the weights, and with their place on the hub. The public code ends PCPVT in _v0.
NAME = re.compile(
    r'(?:(?:hf[-_]hub:)?timm/)?(?P<timm>twins_(?:svt|pcpvt)_(?:small|base|large))(?:\.in1k)?'
    r'|(?P<public>alt_gvt_(?:small|base|large)|pcpvt_(?:small|base|large)(?:_v0)?)'
)


class Named(NamedTuple):
    """What a name stands for.

    Args:
        name: Without tag and place.
        family: ``'svt'`` or ``'pcpvt'``.
        size: ``'small'``, ``'base'`` or ``'large'``.
        is_public: Whether it is a name of the public code, and not of timm.
    """

    name: str
    family: str
    size: str
    is_public: bool

    @property
    def weights(self) -> str:
        """The name of the ImageNet weights in :data:`mmtwins.weights.pretrained.IMAGENET`."""
        return f'{self.family}-{self.size}'

    @property
    def arguments(self) -> dict[str, Any]:
        """What makes the architecture, by the names of :class:`mmtwins.dropin.classifier.Twins`."""
        if self.family == 'svt':
            return dict(ARCHITECTURES[self.size], wss=(7, 7, 7, 7))
        return dict(PCPVT_ARCHITECTURES[self.size])

    @property
    def description(self) -> dict[str, Any]:
        """``default_cfg``: where the weights are on the hub, and how their images were prepared."""
        return dict(
            url='',
            hf_hub_id=f'timm/twins_{self.family}_{self.size}.in1k',
            architecture=self.name,
            tag='in1k',
            custom_load=False,
            input_size=(3, 224, 224),
            fixed_input_size=True,
            interpolation='bicubic',
            crop_pct=0.9,
            crop_mode='center',
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
            num_classes=1000,
            pool_size=None,
            first_conv='patch_embeds.0.proj',
            classifier='head',
            license='apache-2.0',
        )


def look_up(model_name: str) -> Named:
    """What a name stands for.

    Args:
        model_name: ``'twins_svt_small'`` and so on, as timm takes it also with ``.in1k`` after and ``hf-hub:timm/`` before
            it, or ``'alt_gvt_small'``, ``'pcpvt_small_v0'`` and so on.

    Raises:
        ValueError: There is no such model.
    """
    found = NAME.fullmatch(model_name) if isinstance(model_name, str) else None
    if found is None:
        names = ', '.join((*TIMM_NAMES, *PUBLIC_NAMES))
        raise ValueError(f'there is no model {model_name!r}: choose one of {names}')
    name = found['timm'] or found['public']
    family = 'pcpvt' if 'pcpvt' in name else 'svt'
    size = next(size for size in SIZES if size in name)
    return Named(name, family, size, is_public=found['public'] is not None)
