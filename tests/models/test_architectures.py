"""The published architectures, and what is refused as one."""

import re

import pytest

from mmtwins.models.architectures import (
    ARCHITECTURES,
    PCPVT_ARCHITECTURES,
    check_choice,
    check_out_indices,
    check_per_stage,
    check_rates,
    is_sequence,
    resolve_architecture,
)

TINY = dict(embed_dims=[8, 16], depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2.5))


def test_a_name_or_its_values() -> None:
    assert resolve_architecture('base', ARCHITECTURES)['embed_dims'] == (96, 192, 384, 768)
    assert resolve_architecture('large', PCPVT_ARCHITECTURES)['depths'] == (3, 8, 27, 3)
    assert resolve_architecture(TINY, ARCHITECTURES) is TINY


@pytest.mark.parametrize(
    ('arch', 'message'),
    [
        ('huge', "arch='huge' is unknown: choose one of small, base, large"),
        (dict(depths=(1,)), "arch=['depths']: give one of small, base, large, or a dict of exactly"),
        ({**TINY, 'depths': (2, 2, 2)}, "arch['depths']=(2, 2, 2) does not match the 2 stages"),
        ({**TINY, 'num_heads': (1, 3)}, '16 channels cannot be shared by 3 heads'),
        ({**TINY, 'depths': (2, 0)}, "arch['depths']=(2, 0): give a positive integer per stage"),
        ({**TINY, 'embed_dims': 8}, "arch['embed_dims']=8 does not match"),
    ],
)
def test_what_is_no_architecture(arch: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        resolve_architecture(arch, ARCHITECTURES)


def test_values_in_range_pass_and_others_do_not() -> None:
    check_choice('a', 1, (1, 2))
    check_rates(rate=0.0, other=0.9)
    check_per_stage('a', (1, 2.5), 2, (int, float))
    check_out_indices((1, 0), 2)
    assert is_sequence([1])
    assert not is_sequence('ab')
    for call, message in (
        (lambda: check_choice('a', 3, ('1',)), 'a=3 is unknown'),
        (lambda: check_rates(rate=1), 'rate=1 is not a rate'),
        (lambda: check_per_stage('a', (1, 2.5), 2), 'give a positive integer per stage'),
        (lambda: check_out_indices((0, 0), 2), 'give different stages out of 0 to 1'),
        (lambda: check_out_indices((2,), 2), 'give different stages out of 0 to 1'),
    ):
        with pytest.raises(ValueError, match=message):
            call()
