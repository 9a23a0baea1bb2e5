"""The classifier: logits and features by the plain reference and by timm's stored numbers, and the members of timm."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from golden import golden_input, golden_positions, golden_state_dict, load_golden
from small import SVT, images, make, plain_logits, plain_maps, plain_tokens
from torch import nn
from torch.testing import assert_close

import mmtwins
from mmtwins.dropin.classifier import Twins


@pytest.mark.parametrize('name', ['twins_svt_small', 'twins_pcpvt_large'])
@torch.no_grad()
def test_logits_and_features(name: str) -> None:
    model, x = make(name), images()
    expected = plain_logits(model, x)
    assert_close(model(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    tokens = model.forward_features(x)
    assert_close(tokens, plain_tokens(model, x), rtol=0, atol=1e-5 * tokens.abs().max().item())
    assert torch.equal(model.forward_head(tokens), model(x))
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens.mean(1))


@torch.no_grad()
def test_features_are_those_of_timm() -> None:
    golden = load_golden('timm_svt_small')
    model = mmtwins.create_model('twins_svt_small', device='meta').eval()
    assert list(model.state_dict()) == list(golden['parameters'])  # in this order, too: optimizers number them
    model.load_state_dict(golden_state_dict('timm_svt_small'), assign=True)
    case = golden['cases'][-1]  # whose maps do not divide into windows
    assert case['width'] // 4 % 7
    maps = model.forward_intermediates(
        torch.from_numpy(golden_input(case['height'], case['width'])), intermediates_only=True
    )
    for actual, expected in zip(maps, case['stages'], strict=True):
        assert list(actual.shape) == expected['shape']
        assert actual.is_contiguous()
        sampled = actual.view(-1)[golden_positions(actual.numel())].numpy()
        assert np.abs(sampled - np.array(expected['values'])).max() / expected['std'] < 2e-5


@torch.no_grad()
def test_intermediates() -> None:
    model, x = make(), images()
    maps = plain_maps(model, x)
    normed = plain_tokens(model, x)

    def check(actual: list, expected: list) -> None:
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected):
            assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())

    for indices, taken in ((None, [0, 1, 2, 3]), (2, [2, 3]), ([1], [1]), ((-1, 0), [0, 3]), ([3, 3], [3])):
        last, found = model.forward_intermediates(x, indices)
        check(found, [maps[i] for i in taken])
        check([last], [normed])
        check(model.forward_intermediates(x, indices, intermediates_only=True), found)
    last, found = model.forward_intermediates(x, [0, 1], stop_early=True)
    check([last, *found], [maps[1], *maps[:2]])
    last, found = model.forward_intermediates(x, [3], stop_early=True, norm=True)
    check([last, *found], [normed, normed.transpose(1, 2).unflatten(2, (2, 2))])
    _, found = model.forward_intermediates(x, [2, 3], norm=True)
    check(found, [maps[2], normed.transpose(1, 2).unflatten(2, (2, 2))])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(indices=5), 'the last 5 stages'),
        (dict(indices=0), 'the last 0 stages'),
        (dict(indices=[4]), 'stage 4 is out of range'),
        (dict(indices=[-5]), 'stage -5 is out of range'),
        (dict(indices=[]), 'empty list'),
        (dict(output_fmt='NLC'), "output_fmt='NLC' is unknown"),
    ],
)
def test_wrong_intermediates_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make().forward_intermediates(images(), **arguments)


@torch.no_grad()
def test_pruning() -> None:
    x = images()
    model = make()
    maps = plain_maps(model, x)
    assert model.prune_intermediate_layers([1, -3]) == [1, 1]
    assert [len(getattr(model, part)) for part in ('patch_embeds', 'pos_drops', 'blocks', 'pos_block')] == [2] * 4
    assert (model.num_features, model.head_hidden_size, model.num_classes, model.global_pool) == (16, 16, 0, '')
    assert isinstance(model.norm, nn.Identity)
    assert isinstance(model.head, nn.Identity)
    assert_close(model(x), maps[1].flatten(2).transpose(1, 2))
    assert_close(model.forward_intermediates(x, intermediates_only=True)[0], maps[0])
    whole = make()
    assert whole.prune_intermediate_layers(1, prune_head=False) == [3]
    assert_close(whole(x), make()(x))
    assert whole.prune_intermediate_layers(4, prune_norm=True) == [0, 1, 2, 3]
    assert_close(whole(x), maps[3].flatten(2).transpose(1, 2))


@torch.no_grad()
def test_the_classifier_is_reset() -> None:
    model, x = make().double(), images().double()
    assert model.get_classifier() is model.head
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(7)
    assert model.num_classes == model.head.out_features == 7
    assert model.head.weight.dtype == torch.float64
    assert not model.head.training
    assert_close(model(x), model.head(pooled))
    model.reset_classifier(0, '')
    assert_close(model(x), model.forward_features(x))
    with pytest.raises(ValueError, match="global_pool='max' is unknown"):
        model.reset_classifier(3, 'max')
    assert make(global_pool='')(images()).shape == (2, 4, 5)


def test_description_of_stages_and_groups_of_weights() -> None:
    model = make()
    assert model.feature_info == [
        dict(module=f'block.{i}', num_chs=dim, reduction=4 * 2**i) for i, dim in enumerate(SVT['embed_dims'])
    ]
    assert (model.num_features, model.head_hidden_size, model.depths, model.embed_dims) == (
        32,
        32,
        [2, 2, 3, 2],
        [8, 16, 24, 32],
    )
    names = {name for name, _ in model.named_parameters()}
    spared = model.no_weight_decay()
    assert spared == {f'pos_block.{i}.proj.0.{kind}' for i in range(4) for kind in ('weight', 'bias')}
    assert spared <= names
    for coarse in (False, True):
        matcher = model.group_matcher(coarse)
        patterns = [matcher['stem'], *(pattern for pattern, _ in matcher['blocks'])]
        left = {name for name in names if not any(re.match(pattern, name) for pattern in patterns)}
        assert left == {'head.weight', 'head.bias'}


def test_checkpointing_keeps_less_and_gives_the_same_gradients() -> None:
    def run(enable: bool) -> tuple[int, list[torch.Tensor]]:
        model, kept = make().train(), []
        model.set_grad_checkpointing(enable)
        assert model.grad_checkpointing is enable
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = model(images()).square().sum()
        loss.backward()
        return sum(kept), [p.grad for p in model.parameters()]

    kept, gradients = run(False)
    kept_less, recomputed = run(True)
    assert kept_less < kept / 2
    for one, other in zip(gradients, recomputed, strict=True):
        assert_close(one, other)


def test_rates_go_where_timm_has_them() -> None:
    model = Twins(**SVT, drop_rate=0.1, pos_drop_rate=0.2, proj_drop_rate=0.3, attn_drop_rate=0.4, drop_path_rate=0.8)
    assert model.head_drop.p == 0.1
    assert {drop.p for drop in model.pos_drops} == {0.2}
    blocks: list[Any] = [block for stage in model.blocks for block in stage.children()]
    assert {
        (block.attn.proj_drop.p, block.mlp.drop1.p, block.mlp.drop2.p, block.attn.attn_drop) for block in blocks
    } == {(0.3, 0.3, 0.3, 0.4)}
    assert [block.drop_path1.rate for block in blocks] == pytest.approx([0.1 * i for i in range(9)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(wss=(7, 7)), 'wss=(7, 7) does not match the 4 stages'),
        (dict(sr_ratios=(8, 4)), 'sr_ratios=(8, 4) does not match'),
        (dict(num_classes=-1), 'num_classes=-1: give an integer of at least 0'),
        (dict(in_chans=0), 'in_chans=0: give an integer of at least 1'),
        (dict(global_pool='max'), "global_pool='max' is unknown"),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0 is not a rate'),
        (dict(window_padding='none'), "window_padding='none' is unknown"),
        (dict(img_size=225), 'img_size=225: give a multiple of 32'),
        (dict(img_size=(224, 224, 3)), 'img_size=(224, 224, 3): give a multiple of 32'),
        (dict(patch_size=16), 'patch_size=16: the patches of the first stage have 4 pixels'),
        (dict(num_heads=(3, 3, 3, 3)), 'is not divisible by num_heads'),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Twins(**{**SVT, **arguments})


def test_wrong_images_are_refused() -> None:
    model = make()
    with pytest.raises(
        ValueError, match=re.escape('expected images of shape (B, 3, H, W), got (2, 1, 64, 64): set in_chans')
    ):
        model(images(channels=1))
    with pytest.raises(ValueError, match='31 x 64 pixels is too small: the smallest input is 32 x 32'):
        model(images(31, 64))
