"""Formats of public Twins checkpoints recognised, and the weights found in what programs save."""

import pytest
import torch
from tiny import Dense, assert_equal, make_tiny, random_weights

from mmtwins.weights import formats
from mmtwins.weights.converting import from_native, to_native
from mmtwins.weights.formats import FORMATS, Format, recognise, strip_wrappers, unwrap


@pytest.mark.parametrize(
    'names', ['blocks.0.norm1.weight', 'stages.0.blocks.1.norm1.weight', 'layers.0.1.0.norm1.bias']
)
def test_other_transformers_are_not_taken_for_twins(names: str) -> None:
    with pytest.raises(ValueError, match='no Twins backbone'):
        recognise({f'backbone.{names}': torch.zeros(1)})


def test_one_block_is_enough() -> None:
    assert recognise({'a.stages.3.1.ffn.layers.1.bias': torch.zeros(1)}) == ('mmpretrain', 'a.')


def test_what_is_no_twins_is_named_by_its_first_weights() -> None:
    with pytest.raises(ValueError, match=r'which has no weights$'):
        recognise({})
    others = {'a': torch.zeros(1), 'b.c': torch.zeros(2, 3), 'd': torch.zeros(()), 'e': torch.zeros(1)}
    with pytest.raises(ValueError, match=r'which has a \(1,\), b\.c \(2, 3\), d \(\)$'):
        recognise(others)


def test_unwrap_finds_the_weights() -> None:
    weights = {'a': torch.zeros(1)}
    for checkpoint in (
        weights,
        {'state_dict': weights, 'meta': {}},
        {'model': weights},
        {'model': {'state_dict': weights}},
        {'state_dict': {'model': weights}},
        {'module.a': torch.zeros(1)},
        {'state_dict': {'module.a': torch.zeros(1), 'iteration': 3}},
    ):
        assert_equal(unwrap(checkpoint), weights)
    for checkpoint in ([1], {0: torch.zeros(1)}, {'state_dict': {0: 1}}):
        with pytest.raises(ValueError, match='no dict of weights by name'):
            unwrap(checkpoint)


@pytest.mark.parametrize(
    ('name', 'stripped'),
    [
        ('module.a.b', 'a.b'),
        ('module._orig_mod.module.a', 'a'),
        ('backbone._orig_mod.blocks.0.1.norm1.weight', 'backbone.blocks.0.1.norm1.weight'),
        ('backbone.module.blocks.0.1._checkpoint_wrapped_module.norm1.bias', 'backbone.blocks.0.1.norm1.bias'),
        ('_fsdp_wrapped_module.blocks.0.0._fsdp_wrapped_module.attn.qkv.bias', 'blocks.0.0.attn.qkv.bias'),
        ('submodule.a', 'submodule.a'),
        ('a.module', 'a.module'),
        ('ema.a', 'ema.a'),
    ],
)
def test_wrappers_leave_names_wherever_they_are(name: str, stripped: str) -> None:
    assert strip_wrappers(name) == stripped


def test_averaged_models_lose_their_counters_and_doubles_are_refused() -> None:
    weights = random_weights(make_tiny())
    for counter in ('steps', 'n_averaged'):
        averaged = {counter: torch.tensor(3), **{f'module.{name}': value for name, value in weights.items()}}
        assert_equal(unwrap(averaged), weights)
    assert unwrap({'steps': torch.tensor(3), 'a': torch.zeros(1)}).keys() == {'steps', 'a'}
    half = {'steps': torch.tensor(3), 'a': torch.zeros(1), 'module.b': torch.zeros(1)}
    assert unwrap(half).keys() == {'steps', 'a', 'b'}
    with pytest.raises(ValueError, match=r'holds two models, with a and module\.a: keep one'):
        unwrap({'a': torch.zeros(1), 'module.a': torch.zeros(1)})


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('outer', ['module.', '_orig_mod.', 'ema.', 'module.ema.', 'model.', 'student.', 'a.b.c.'])
def test_any_prefix_of_a_backbone_is_recognised(outer: str, fmt: str) -> None:
    foreign = from_native(random_weights(Dense()), fmt)
    found = recognise(unwrap({outer + name: value for name, value in foreign.items()}))
    assert found.prefix == strip_wrappers(outer) + 'backbone.'
    assert found.format == recognise(foreign).format


def test_a_new_format_is_one_entry(monkeypatch) -> None:
    entry = Format(
        blocks='stages',  # a word that another format has too: recognised as that, written by its own name
        renamed={'blocks.*.*.norm1.': 'stages.*.*.ln1.', 'blocks.*.*.': 'stages.*.*.'},
        renamed_gsa={'blocks.*.*.attn.q.': 'stages.*.*.attn.qkv_', 'blocks.*.*.attn.kv.': 'stages.*.*.attn.qkv_'},
    )
    monkeypatch.setitem(FORMATS, 'mine', entry)
    monkeypatch.setitem(formats.FORMAT_OF_BLOCKS, 'stages', 'mine')
    native = random_weights(make_tiny())
    foreign = from_native(native, 'mine')
    assert foreign['stages.0.1.attn.qkv_weight'].shape == (24, 8)
    assert_equal(to_native(foreign), native)
