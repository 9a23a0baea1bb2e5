"""A file that differs from its model is found, however it differs."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmtwins.export import verify, verifying
from mmtwins.export.verifying import largest_difference


def test_the_largest_difference_is_relative_to_the_largest_value_of_its_output() -> None:
    expected = [torch.tensor([1.0, -4.0]), torch.tensor([[100.0]])]
    assert largest_difference([torch.tensor([1.0, -4.0]), torch.tensor([[100.0]])], expected) == 0
    assert largest_difference([torch.tensor([1.4, -4.0]), torch.tensor([[101.0]])], expected) == pytest.approx(0.1)
    assert not largest_difference([torch.tensor([float('nan'), -4.0]), torch.tensor([[100.0]])], expected) <= 1


@pytest.mark.parametrize(
    ('outputs', 'message'),
    [
        ([torch.zeros(2)], '1 outputs, not 2'),
        ([torch.zeros(2), torch.zeros(3)], r'\(3,\), not \(1,\)'),
    ],
)
def test_other_numbers_and_shapes_are_no_difference_but_wrong(outputs: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        largest_difference(outputs, [torch.ones(2), torch.ones(1)])


def fail(images: Tensor) -> list[Tensor]:
    raise RuntimeError('no memory')


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (lambda images: [images * 1.01], r'x\.onnx differs by 0\.01 on \(1, 3, 4, 4\), more than 0\.001'),
        (lambda images: [images * float('nan')], 'differs by nan'),
        (lambda images: [images[:, :2]], r'x\.onnx gives \(1, 2, 4, 4\), not \(1, 3, 4, 4\), for \(1, 3, 4, 4\)'),
        (fail, r'x\.onnx does not run on \(1, 3, 4, 4\): no memory'),
    ],
)
def test_what_a_file_does_wrong_is_said(run, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(verifying, 'open_file', lambda path, format_: run)
    with pytest.raises(ValueError, match=message):
        list(verify(Same(), tmp_path / 'x.onnx', [(1, 3, 4, 4)]))


class Same(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.weight
