"""Features and gradients on a GPU in each precision, compared with those of plain modules in float32 on the CPU."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.backbone import TwinsPCPVTBackbone, TwinsSVTBackbone
from ..models.fast_path import fast_path
from .measure import NO_ROOM
from .precision import autocast_to, products_in
from .task import PRECISIONS

IMAGES = 'images'  # the name of their gradient
FAMILIES = {'svt': TwinsSVTBackbone, 'pcpvt': TwinsPCPVTBackbone}


class Errors(NamedTuple):
    """How far one computation is from another.

    Attributes:
        features: The largest difference in any map, in standard deviations of the map.
        gradients: The largest norm of a difference of gradients, relative to that of the gradient of the same parameter; for a
            small gradient, in which large terms cancel out, relative to that of a median one of as many values.
    """

    features: float
    gradients: float


# A wrong window or key gives errors of about 1. Rounding gives a sixth to a half of what is allowed for bf16 and fp16, as far
# as a CPU can tell (autocast to bfloat16, and float16 as tests/cuda_autocast.py imitates it). TF32 rounds as fp16, but
# less often.
TOLERANCES = {
    'fp32': Errors(5e-4, 5e-4),
    'tf32': Errors(4e-2, 5e-2),
    'bf16': Errors(3e-1, 3e-1),
    'fp16': Errors(4e-2, 5e-2),
}


def measure_parity(
    family: str,
    size: tuple[int, int],
    device: str,
    precisions: Sequence[str] = tuple(PRECISIONS),
    arch: str | Mapping[str, Sequence] = 'small',
) -> dict[str, Any]:
    """Compare a backbone on a device with the same on the CPU.

    Args:
        family: A key of :data:`FAMILIES`.
        size: Height and width of the random image, in pixels.
        device: To check, such as ``'cuda:0'``.
        precisions: Keys of :data:`TOLERANCES`.
        arch: Architecture of the backbone.

    Returns:
        ``rows``: by precision the errors, the tolerances, and whether the errors are within; or a ``reason`` where it does
        not fit into memory. ``failures``: a sentence for each that is not.
    """
    torch.manual_seed(0)
    model = make_model(family, arch)
    images, directions = torch.randn(1, 3, *size), None
    with fast_path(False):
        directions = [torch.randn_like(one) for one in _features(model, images, 'fp32')]
        expected = run_both_ways(model, images, directions, 'fp32')
    rows: list[dict[str, Any]] = []
    failures = []
    for precision in precisions:
        allowed = TOLERANCES[precision]
        row: dict[str, Any] = dict(precision=precision, allowed=allowed._asdict())
        try:
            errors = compare(run_both_ways(copy.deepcopy(model).to(device), images, directions, precision), expected)
        except torch.cuda.OutOfMemoryError:
            rows.append(dict(row, reason=NO_ROOM))
            continue
        holds = {name: value <= getattr(allowed, name) for name, value in errors._asdict().items()}
        failures += [
            f'{name} of {family} at {size[0]} x {size[1]} in {precision} differ by {getattr(errors, name):.2g}, '
            f'more than {getattr(allowed, name):g}'
            for name, within in holds.items()
            if not within
        ]
        rows.append(dict(row, errors=errors._asdict(), passed=all(holds.values())))
    return dict(rows=rows, failures=failures)


def make_model(family: str, arch: str | Mapping[str, Sequence]) -> nn.Module:
    """A backbone in eval mode whose random weights make every layer matter; initial weights are too small for that."""
    model = FAMILIES[family](arch=arch, drop_path_rate=0.0).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    return model


def run_both_ways(
    model: nn.Module, images: Tensor, directions: Sequence[Tensor], precision: str
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Run a backbone forward and backward where it is.

    Args:
        model: The backbone.
        images: (B, 3, H, W) on the CPU.
        directions: For each map what its gradient is to be, up to a factor, on the CPU.
        precision: A key of :data:`mmtwins.benchmark.task.PRECISIONS`.

    Returns:
        The maps, and the gradients by name of a parameter, those of the images included, in float32 on the CPU.
    """
    device = next(model.parameters()).device
    images = images.to(device).requires_grad_()
    maps = _features(model, images, precision)
    # By the side of the map, so that sums of gradients over its tokens stay within the range of float16.
    losses = [(m.float() * d.to(device)).sum() / math.sqrt(m[0, 0].numel()) for m, d in zip(maps, directions)]
    inputs = {IMAGES: images, **dict(model.named_parameters())}
    with products_in(precision):
        gradients = torch.autograd.grad(torch.stack(losses).sum(), list(inputs.values()))
    return [m.detach().float().cpu() for m in maps], dict(zip(inputs, (g.float().cpu() for g in gradients)))


def _features(model: nn.Module, images: Tensor, precision: str) -> list[Tensor]:
    with products_in(precision), autocast_to(precision, images.device.type):
        return list(model(images))


def compare(actual: tuple[list[Tensor], dict[str, Tensor]], expected: tuple[list[Tensor], dict[str, Tensor]]) -> Errors:
    """How far maps and gradients are from those expected; what is not a number gives an infinite error."""
    features = [((a - e).abs().max() / e.std()).item() for a, e in zip(actual[0], expected[0], strict=True)]
    typical = torch.stack([e.square().mean().sqrt() for name, e in expected[1].items() if name != IMAGES]).median()
    gradients = []
    for name, e in expected[1].items():
        floor = 0.0 if name == IMAGES else typical * e.numel() ** 0.5
        gradients.append(((actual[1][name] - e).norm() / e.norm().clamp(min=floor)).item())
    return Errors(*(max(v if math.isfinite(v) else math.inf for v in values) for values in (features, gradients)))
