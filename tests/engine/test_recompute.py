"""MMEngine's option for activation checkpointing, with gradients for modules that take images alone."""

import pytest
import torch
from mmengine.runner import runner
from tiny import Dense

from mmtwins.engine.recompute import turn_on_activation_checkpointing


def gradients(model: Dense) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sum(m.square().mean() for m in model.backbone(torch.randn(1, 3, 64, 64))).backward()
    return {name: value.grad for name, value in model.backbone.named_parameters()}


@pytest.mark.parametrize('modules', ['backbone', ['backbone.blocks.0.0', 'backbone.blocks.2.1']])
def test_gradients_are_those_without_it(modules: str | list[str]) -> None:
    torch.manual_seed(1)
    model = Dense().train()
    plain = Dense().train()
    plain.load_state_dict(model.state_dict())
    calls = []
    model.backbone.blocks[0][0].norm1.register_forward_hook(lambda *_: calls.append(1))
    turn_on_activation_checkpointing(model, modules)
    given, expected = gradients(model), gradients(plain)
    assert len(calls) == 2
    assert all(value is not None for value in expected.values())
    torch.testing.assert_close(given, expected)


def test_mmengine_uses_it_and_a_wrong_name_is_told_the_parts_there_are() -> None:
    assert runner.turn_on_activation_checkpointing is turn_on_activation_checkpointing
    for name in ('backbon', 'backbone.blocks.7'):
        with pytest.raises(
            ValueError, match=f"activation_checkpointing='{name}' is no part of the model: it has backbone"
        ):
            turn_on_activation_checkpointing(Dense(), [name])
