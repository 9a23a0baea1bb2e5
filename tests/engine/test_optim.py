"""Learning rates by layer: the formula, for every weight of both families, in models of any kind."""

import pytest
import torch
from fsdp_cases import PlainModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from tiny import Dense, make_tiny
from torch import nn

from mmtwins import TwinsLayerDecayConstructor, TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.engine.optim import decay_factors, find_layer
from mmtwins.models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES

# Of a backbone with two blocks and three, by hand.
LAYERS = {
    'patch_embeds.0': 0, 'blocks.0.0': 1, 'pos_block.0': 1, 'blocks.0.1': 2, 'norm_list.0': 2,
    'patch_embeds.1': 3, 'blocks.1.0': 3, 'pos_block.1': 3, 'blocks.1.1': 4, 'blocks.1.2': 5, 'norm_list.1': 5,
}  # fmt: skip
ARCH = dict(embed_dims=(8, 16), depths=(2, 3), num_heads=(1, 2), mlp_ratios=(2, 2))
both_families = pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])


def build(model: nn.Module, lr: float = 0.1, **paramwise: object) -> dict[str, dict]:
    """The optimizer's group of each weight, by name."""
    cfg = dict(
        constructor='TwinsLayerDecayConstructor',
        optimizer=dict(type='AdamW', lr=lr, weight_decay=0.05),
        paramwise_cfg=paramwise,
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    names = {id(value): name for name, value in model.named_parameters()}
    found = {names[id(value)]: group for group in groups for value in group['params']}
    assert len(found) == sum(len(group['params']) for group in groups)
    return found


@both_families
def test_every_rate_equals_the_formula(family: type) -> None:
    model = nn.ModuleDict(
        dict(
            net=family(arch=ARCH, sr_ratios=(2, 1), out_indices=(0, 1), norm_after_stage=True, **(
                dict(window_sizes=(7, 7)) if family is TwinsSVTBackbone else {}
            )),
            head=nn.Conv2d(16, 2, 1),
        )
    )  # fmt: skip
    groups = build(model, layer_decay=0.5)
    seen = set()
    for name, value in model.named_parameters():
        place = next((place for place in LAYERS if name.startswith(f'net.{place}.')), None)
        assert groups[name]['lr'] == pytest.approx(0.1 * 0.5 ** (6 - LAYERS[place] if place else 0)), name
        assert value is groups[name]['params'][0]
        seen.add(place or 'head')
    assert seen == {*LAYERS, 'head'}


@both_families
def test_rates_never_fall_towards_the_heads(family: type) -> None:
    """In the order in which weights are used, from published architectures: each layer's rate is that before it or above."""
    architectures = ARCHITECTURES if family is TwinsSVTBackbone else PCPVT_ARCHITECTURES
    for name in architectures:
        with torch.device('meta'):
            model = family(arch=name)
        factors, order = decay_factors(model, 0.9), []
        for stage, blocks in enumerate(model.blocks):
            order += [model.patch_embeds[stage], blocks[0], model.pos_block[stage], *blocks[1:], model.norm_list[stage]]
        values = [factors[id(value)] for module in order for value in module.parameters()]
        assert len(values) == len(list(model.parameters()))
        assert values == sorted(values)
        depth = sum(len(blocks) for blocks in model.blocks)
        assert (values[0], values[-1]) == (pytest.approx(0.9 ** (depth + 1)), pytest.approx(0.9))
        assert len(set(values)) == depth + 1


def test_other_options_of_paramwise_cfg_hold_beside_it() -> None:
    model = Dense()
    keys = {'norm': dict(decay_mult=0.0), 'conv_seg': dict(lr_mult=10.0), 'blocks.3': dict(lr_mult=0.5)}
    groups = build(model, layer_decay=0.9, bias_lr_mult=2.0, custom_keys=keys)
    assert groups['backbone.blocks.0.0.norm1.weight']['weight_decay'] == 0
    assert groups['backbone.blocks.0.0.attn.qkv.weight']['weight_decay'] == 0.05
    assert groups['decode_head.conv_seg.weight']['lr'] == pytest.approx(1.0)
    assert groups['decode_head.bottleneck.bias']['lr'] == pytest.approx(0.2)
    assert groups['backbone.blocks.3.1.attn.q.weight']['lr'] == pytest.approx(0.1 * 0.5 * 0.9)
    assert groups['backbone.patch_embeds.0.proj.bias']['lr'] == pytest.approx(0.1 * 2 * 0.9**10)


def test_frozen_weights_have_no_group_and_added_layers_the_rate_of_the_heads() -> None:
    model = nn.ModuleDict(dict(net=make_tiny(frozen_stages=1)))
    model['net'].adapter = nn.Linear(2, 2)
    groups = build(model, layer_decay=0.5)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(groups)
    assert not any('blocks.1' in name for name in groups)
    assert groups['net.adapter.weight']['lr'] == 0.1
    assert find_layer('adapter.weight', [2, 3]) == 6


@pytest.mark.parametrize('decay', [None, 0, 1.1, -0.9, '0.9'])
def test_a_decay_out_of_range_is_refused(decay: object) -> None:
    with pytest.raises(ValueError, match=rf'layer_decay={decay}: give a number above 0 and at most 1'):
        build(Dense(), layer_decay=decay)


def test_what_it_needs_is_said() -> None:
    with pytest.raises(ValueError, match='needs a model with a TwinsSVTBackbone or TwinsPCPVTBackbone'):
        build(PlainModel(), layer_decay=0.9)
    with pytest.raises(ValueError, match=r'layer_decay needs optimizer\.lr'):
        build(Dense(), lr=None, layer_decay=0.9)
    assert OPTIM_WRAPPER_CONSTRUCTORS.get('TwinsLayerDecayConstructor') is TwinsLayerDecayConstructor
