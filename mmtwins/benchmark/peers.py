"""Twins-SVT as mmtwins, mmseg, mmpretrain and timm have it, whichever is installed, with equal weights."""

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..installing import package_of
from ..models.architectures import ARCHITECTURES
from ..models.backbone import TwinsSVTBackbone
from ..weights.converting import from_native

OURS = ('mmtwins', 'mmtwins with_cp', 'mmtwins compiled', 'mmtwins channels-last')
PEERS = {name: package_of(name) for name in ('mmseg', 'mmpretrain', 'timm')}  # package by module
DROP_PATH_RATE = 0.2
_torchvision: torch.library.Library  # of _import_torchvision


def installed_peers() -> list[str]:
    """The other implementations that can be imported here."""
    found = []
    for module in PEERS:
        try:
            _import_peer(module)
        except ImportError:
            continue
        found.append(module)
    return found


def check_installed(implementations: Sequence[str]) -> None:
    """Check that implementations can be imported here.

    Args:
        implementations: Out of :data:`OURS` and :data:`PEERS`.

    Raises:
        ImportError: One cannot; the message says what to do.
    """
    for module in implementations:
        if module not in PEERS:
            continue
        try:
            _import_peer(module)
        except ImportError as error:
            raise ImportError(
                f'{module} cannot be imported here ({error}): pip install {PEERS[module]}, or leave it out of --against'
            ) from None


def build_backbone(
    implementation: str, arch: str | Mapping[str, Sequence] = 'small', weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Build Twins-SVT as one of the implementations has it; all return four maps (B, C, H, W).

    Args:
        implementation: One of :data:`OURS` or :data:`PEERS`.
        arch: ``'small'``, ``'base'`` or ``'large'``; ours can have one of its own.
        weights: State dict in native names to load. timm has no norms of stages.

    Returns:
        The backbone, on the CPU.

    Raises:
        ImportError: The library is not installed.
        ValueError: The weights do not fit, or the library has no such architecture.
    """
    model: nn.Module
    if implementation in OURS:
        model = TwinsSVTBackbone(arch=arch, drop_path_rate=DROP_PATH_RATE, with_cp=implementation == 'mmtwins with_cp')
        fmt = 'native'
    else:
        if not isinstance(arch, str):
            raise ValueError(f'{implementation} has no architecture {arch}: take small, base or large')
        fmt, module, settings = implementation, _import_peer(implementation), ARCHITECTURES[arch]
        if implementation == 'mmseg':
            model = module.SVT(
                embed_dims=list(settings['embed_dims']),
                num_heads=list(settings['num_heads']),
                mlp_ratios=list(settings['mlp_ratios']),
                depths=list(settings['depths']),
                sr_ratios=[8, 4, 2, 1],
                windiow_sizes=[7, 7, 7, 7],  # the library's own spelling
                norm_after_stage=True,
                drop_path_rate=DROP_PATH_RATE,
            )
        elif implementation == 'mmpretrain':
            model = module.SVT(arch, out_indices=(0, 1, 2, 3), norm_after_stage=True, drop_path_rate=DROP_PATH_RATE)
        else:
            model = _TimmMaps(module.create_model(f'twins_svt_{arch}', drop_path_rate=DROP_PATH_RATE))
    if weights is not None:
        target = model.model if isinstance(model, _TimmMaps) else model
        missing = target.load_state_dict(from_native(weights, fmt), strict=False).missing_keys
        missing = [name for name in missing if not name.startswith(('norm.', 'head.'))]  # of timm's classifier, not run
        if missing:
            raise ValueError(f'{implementation} lacks weights for {", ".join(missing[:3])}')
    return compile_alone(model) if implementation == 'mmtwins compiled' else model


def published_arch(config: str, backbone: Mapping[str, Any], implementation: str) -> str:
    """The architecture of a config's backbone, by the name that other libraries know too.

    Args:
        config: Name of the config, for the message.
        backbone: Its settings.
        implementation: One of :data:`PEERS`.

    Raises:
        ValueError: The config defines its own architecture.
    """
    arch = backbone.get('arch', 'small')
    if not isinstance(arch, str):
        raise ValueError(f'{config} has an architecture of its own, which {implementation} has not')
    return arch


def compile_alone(model: nn.Module) -> nn.Module:
    """Compile a model as in a new process. PyTorch gives the second size of a model dynamic shapes, and compiles no ninth."""
    torch._dynamo.reset()
    return cast(nn.Module, torch.compile(model))


class _TimmMaps(nn.Module):
    """timm's model, returning the maps of all stages."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(x, intermediates_only=True)


def _import_peer(module: str) -> Any:
    if find_spec('torchvision'):  # mmpretrain and timm need it; mmseg imports mmpretrain where that is installed
        _import_torchvision()
    name = {'mmseg': 'mmseg.models.backbones.twins', 'mmpretrain': 'mmpretrain.models.backbones'}.get(module, module)
    return import_module(name)


def _import_torchvision() -> None:
    """Import torchvision even where its compiled operators do not load, as those for CUDA do not beside a CPU torch.

    It registers meta functions for them and fails on the first; mmpretrain's and timm's Twins use none of them, so an
    empty schema of that name is enough.
    """
    global _torchvision
    _torchvision = torch.library.Library('torchvision', 'FRAGMENT')  # schemas live as long as this
    while True:
        try:
            import_module('torchvision')
            return
        except RuntimeError as error:
            missing = re.search(r'operator torchvision::(\w+) does not exist', str(error))
            if missing is None:
                raise ImportError(f'torchvision cannot be imported: {error}') from error
            for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
                del sys.modules[name]
            _torchvision.define(f'{missing[1]}() -> ()')
