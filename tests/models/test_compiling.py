"""Code knows whether it is being compiled."""

import torch

from mmtwins.models.compiling import is_compiling


def test_code_knows_whether_it_is_compiled() -> None:
    def double_if_compiled(x: torch.Tensor) -> torch.Tensor:
        return 2 * x if is_compiling() else x

    x = torch.ones(3)
    assert torch.equal(double_if_compiled(x), x)
    assert torch.equal(torch.compile(double_if_compiled, backend='eager')(x), 2 * x)
