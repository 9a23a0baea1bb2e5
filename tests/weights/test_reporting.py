"""What is said of a checkpoint."""

import pytest
import torch
from tiny import Dense, make_tiny, random_weights, tiny_classifier
from torch import nn

from mmtwins.weights.converting import from_native
from mmtwins.weights.fitting import fit_backbone, fit_model
from mmtwins.weights.reporting import list_warnings, summarise


@pytest.mark.parametrize(
    ('fmt', 'names'), [('native', 'native (official, timm)'), ('mmseg', 'mmseg'), ('mmpretrain', 'mmpretrain')]
)
def test_line_for_a_classifier(fmt: str, names: str) -> None:
    expected = make_tiny().state_dict()
    assert summarise(fit_backbone(from_native(tiny_classifier(), fmt), expected)) == (
        f'Twins checkpoint recognised as ImageNet classifier in {names} names: {len(expected) - 8} tensors '
        'loaded into the backbone, 4 dropped (head 2, final norm 2), 8 left fresh (stage norms)'
    )


def test_line_for_a_whole_model_and_for_fewer_stages() -> None:
    weights = {f'backbone.{k}': v for k, v in random_weights(make_tiny()).items()} | {'decode_head.a': torch.zeros(1)}
    fit = fit_backbone({'state_dict': weights}, make_tiny(out_indices=(0, 1)).state_dict())
    later = len(weights) - 1 - len(fit.weights)
    assert summarise(fit).endswith(
        f'as whole model in native (official, timm) names: {len(fit.weights)} tensors loaded into the backbone, '
        f'{later + 1} dropped (stages not built {later}, heads of the model 1)'
    )


def test_line_where_everything_fits_says_only_that() -> None:
    weights = random_weights(Dense())
    assert summarise(fit_model(weights, Dense().state_dict())) == (
        'Twins checkpoint recognised as whole model in native (official, timm) names: 160 tensors loaded into the backbone '
        'and 4 into the rest of the model'
    )


def test_line_counts_the_rest_of_the_model() -> None:
    source = from_native(random_weights(Dense(auxiliary_head=nn.Linear(2, 2))), 'mmseg')
    fit = fit_model(source, Dense().state_dict())
    assert summarise(fit).endswith(
        'as whole model in mmseg names: 160 tensors loaded into the backbone and 4 into the rest of the model, '
        '2 dropped (heads of the model 2)'
    )
    assert list_warnings(fit) == ['auxiliary_head: in the checkpoint, not in the model, dropped']


def test_kernels_of_another_size_are_warned_of() -> None:
    fit = fit_backbone(random_weights(make_tiny()), make_tiny(sr_ratios=(4, 4, 1, 2)).state_dict())
    assert list_warnings(fit) == [
        f'1 GSA sub-sampling kernels {action}, sr_ratio {old} in the checkpoint and {new} in the backbone: fine-tune '
        'before use'
        for action, old, new in (('resized', 8, 4), ('dropped', 2, 1), ('started as means', 1, 2))
    ]


@pytest.mark.parametrize(
    ('given', 'wanted', 'line'),
    [
        (
            dict(subsampling='pool'),
            dict(sr_ratios=(8, 1, 1, 1)),
            'started as means, pool in the checkpoint and conv with sr_ratio 8 in the backbone; their kernels are fresh',
        ),
        (
            dict(sr_ratios=((8, 4), 1, 1, 1)),
            dict(sr_ratios=(2, 1, 1, 1), subsampling='separable'),
            'started as means, conv with sr_ratio 8 x 4 in the checkpoint and separable with sr_ratio 2 in the backbone; '
            'their depth-wise kernels are fresh',
        ),
        (
            dict(),
            dict(sr_ratios=(8, 1, 1, 1), subsampling='pool'),
            'dropped, conv with sr_ratio 8 in the checkpoint and pool in the backbone',
        ),
        (
            dict(sr_ratios=(1, 1, 1, 1)),
            dict(sr_ratios=(2, 1, 1, 1), subsampling='pool'),
            'started as means, none in the checkpoint and pool in the backbone; their norms are fresh',
        ),
        (
            dict(sr_ratios=(1, 1, 1, 1)),
            dict(sr_ratios=((2, 3), 1, 1, 1), subsampling='separable'),
            'started as means, none in the checkpoint and separable with sr_ratio 2 x 3 in the backbone; their kernels and '
            'norms are fresh',
        ),
    ],
)
def test_other_kinds_of_sub_sampling_are_warned_of(given: dict, wanted: dict, line: str) -> None:
    fit = fit_backbone(random_weights(make_tiny(**given)), make_tiny(**wanted).state_dict())
    assert list_warnings(fit)[0] == f'1 GSA sub-samplings {line}: fine-tune before use'


def test_what_computes_the_same_needs_no_fine_tuning() -> None:
    fit = fit_backbone(random_weights(make_tiny(subsampling='separable')), make_tiny().state_dict())
    assert list_warnings(fit)[0] == (
        '1 GSA sub-samplings multiplied, separable with sr_ratio 8 in the checkpoint and conv with sr_ratio 8 in the '
        'backbone: they compute the same'
    )
