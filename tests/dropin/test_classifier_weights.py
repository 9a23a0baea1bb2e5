"""Weights of classifiers: read safely, in any format, adapted to other classes and channels."""

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import draw, make
from torch import Tensor

from mmtwins.dropin.classifier_weights import adapt, load, read_classifier, to_timm
from mmtwins.weights.converting import from_native


def assert_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize('name', ['twins_svt_small', 'twins_pcpvt_small'])
def test_files_of_every_format(name: str, tmp_path: Path) -> None:
    weights = make(name).state_dict()
    files = {
        'plain.pth': weights,
        'state.pth': {'state_dict': {f'module.{key}': value for key, value in weights.items()}, 'epoch': 3},
        'model.pth': {'model': weights},
        'mmpretrain.pth': from_native(weights, 'mmpretrain'),
    }
    for file, content in files.items():
        torch.save(content, tmp_path / file)
        assert_equal(read_classifier(tmp_path / file), weights)
    save_file(weights, tmp_path / 'a.safetensors')
    assert_equal(read_classifier(str(tmp_path / 'a.safetensors')), weights)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    class Planted:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / 'ran'),)

    torch.save({'state_dict': Planted()}, tmp_path / 'planted.pth')
    (tmp_path / 'damaged.pth').write_bytes(b'PK\x03\x04 nothing')
    torch.save({'a': torch.ones(1)}, tmp_path / 'other.pth')
    for file, message in (
        ('planted.pth', 'is refused: besides weights it holds .*mkdir'),
        ('damaged.pth', 'cannot be read'),
        ('other.pth', 'other.pth: no Twins backbone is in the checkpoint'),
    ):
        with pytest.raises(ValueError, match=message):
            read_classifier(tmp_path / file)
    assert not (tmp_path / 'ran').exists()
    with pytest.raises(FileNotFoundError, match=re.escape('gone.pth is no file: give the path')):
        read_classifier(tmp_path / 'gone.pth')


def test_weights_are_adapted_to_classes_and_channels() -> None:
    weights = to_timm(make().state_dict())
    kernel = weights['patch_embeds.0.proj.weight']
    model = make(num_classes=7, in_chans=5)
    adapted = adapt(weights, model, 5)
    assert torch.equal(adapted['head.weight'], model.head.weight)
    assert torch.allclose(adapted['patch_embeds.0.proj.weight'], kernel[:, [0, 1, 2, 0, 1]] * 0.6)
    grey = adapt(weights, make(in_chans=1), 5)
    assert torch.allclose(grey['patch_embeds.0.proj.weight'], kernel.sum(1, keepdim=True))
    assert torch.equal(grey['head.weight'], weights['head.weight'])
    without = make(num_classes=0)
    load(without, adapt(weights, without, 5))
    assert torch.equal(without.norm.weight, weights['norm.weight'])


def test_weights_that_do_not_fit_are_refused_and_change_nothing() -> None:
    model, before = make(), {name: value.clone() for name, value in make().state_dict().items()}
    wrong = {name: value + 1 for name, value in draw(model).items()}
    cases = {
        r'head.weight is \(7, 32\) in the checkpoint, \(5, 32\) in the model': wrong
        | {'head.weight': torch.ones(7, 32)},
        'norm.weight is missing in the checkpoint': {
            name: value for name, value in wrong.items() if name != 'norm.weight'
        },
        'norm.bias holds numbers that are not finite': wrong | {'norm.bias': torch.full((32,), torch.nan)},
    }
    for message, weights in cases.items():
        with pytest.raises(ValueError, match=message):
            load(model, weights)
    assert_equal(model.state_dict(), before)
