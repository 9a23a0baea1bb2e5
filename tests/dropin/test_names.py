"""Names of models, and timm's description of them."""

import pytest

from mmtwins.dropin.names import PUBLIC_NAMES, TIMM_NAMES, look_up
from mmtwins.weights.pretrained import IMAGENET


def test_all_names_stand_for_architectures_with_weights() -> None:
    assert sorted(TIMM_NAMES) == [
        f'twins_{family}_{size}' for family in ('pcpvt', 'svt') for size in ('base', 'large', 'small')
    ]
    for name in (*TIMM_NAMES, *PUBLIC_NAMES):
        named = look_up(name)
        assert (named.name, named.is_public) == (name, name in PUBLIC_NAMES)
        repositories = {getattr(source, 'repository', None) for source in IMAGENET[named.weights]}
        assert named.description['hf_hub_id'] in repositories
        assert ('wss' in named.arguments) == (named.family == 'svt')


@pytest.mark.parametrize(
    'spelling',
    [
        'twins_svt_large.in1k',
        'hf-hub:timm/twins_svt_large.in1k',
        'hf_hub:timm/twins_svt_large',
        'timm/twins_svt_large.in1k',
    ],
)
def test_spellings_of_timm(spelling: str) -> None:
    assert look_up(spelling) == look_up('twins_svt_large')


def test_both_spellings_of_the_public_code() -> None:
    assert look_up('pcpvt_small_v0')._replace(name='') == look_up('pcpvt_small')._replace(name='')


@pytest.mark.parametrize(
    'name', ['twins_svt_huge', 'resnet50', 'twins_svt_large.in22k', 'hf-hub:me/twins_svt_large', None]
)
def test_other_names_are_refused(name: object) -> None:
    with pytest.raises(ValueError, match=r'there is no model .*: choose one of twins_pcpvt_small, .*pcpvt_large$'):
        look_up(name)


def test_the_description_is_that_of_timm() -> None:
    assert look_up('twins_svt_small').description == {
        'url': '',
        'hf_hub_id': 'timm/twins_svt_small.in1k',
        'architecture': 'twins_svt_small',
        'tag': 'in1k',
        'custom_load': False,
        'input_size': (3, 224, 224),
        'fixed_input_size': True,
        'interpolation': 'bicubic',
        'crop_pct': 0.9,
        'crop_mode': 'center',
        'mean': (0.485, 0.456, 0.406),
        'std': (0.229, 0.224, 0.225),
        'num_classes': 1000,
        'pool_size': None,
        'first_conv': 'patch_embeds.0.proj',
        'classifier': 'head',
        'license': 'apache-2.0',
    }
