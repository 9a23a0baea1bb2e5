"""Other implementations: equal weights, and one sentence where one is missing."""

import pytest
import torch
import torch._dynamo
from tiny import TINY
from torch.testing import assert_close

from mmtwins import TwinsSVTBackbone
from mmtwins.benchmark import peers
from mmtwins.benchmark.peers import OURS, PEERS, build_backbone, check_installed, installed_peers


@pytest.mark.parametrize('peer', PEERS)
def test_peers_hold_the_same_weights(peer: str) -> None:
    if peer not in installed_peers():
        pytest.skip(f'{peer} is not installed')
    torch.manual_seed(0)
    weights = TwinsSVTBackbone().state_dict()
    x = torch.randn(1, 3, 224, 224)  # 7 divides all maps, so that no window is padded
    with torch.no_grad():
        expected = build_backbone('mmtwins', weights=weights).eval()(x)
        maps = build_backbone(peer, weights=weights).eval()(x)
        if peer == 'timm':  # has no norms of stages
            ours = TwinsSVTBackbone(norm_after_stage=False).eval()
            ours.load_state_dict({name: w for name, w in weights.items() if not name.startswith('norm_list.')})
            expected = ours(x)
    for actual, wanted in zip(maps, expected, strict=True):
        assert_close(actual, wanted, rtol=1e-3, atol=1e-3)  # mmseg and mmpretrain have another eps of norms


@pytest.mark.parametrize('implementation', OURS[:2])
def test_variants_of_ours_are_built(implementation: str) -> None:
    assert build_backbone(implementation).with_cp == (implementation == 'mmtwins with_cp')


def test_each_compiled_backbone_is_compiled_for_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    monkeypatch.setattr(torch._dynamo, 'reset', lambda: done.append('reset'))
    monkeypatch.setattr(torch, 'compile', lambda model: done.append('compile') or model)
    build_backbone('mmtwins compiled', TINY)
    assert done == ['reset', 'compile']


def test_an_architecture_of_its_own_is_ours_alone() -> None:
    assert build_backbone('mmtwins', TINY).norm_list[0].normalized_shape == (8,)
    with pytest.raises(ValueError, match='timm has no architecture'):
        build_backbone('timm', TINY)


def test_a_missing_library_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ImportError(f'No module named {module!r}')

    monkeypatch.setattr(peers, '_import_peer', missing)
    check_installed(OURS)
    assert installed_peers() == []
    message = (
        r"^mmseg cannot be imported here \(No module named 'mmseg'\): pip install (onedl-)?mmsegmentation, or leave it out of "
        r'--against$'
    )
    with pytest.raises(ImportError, match=message):
        check_installed(['mmtwins with_cp', 'mmseg'])
