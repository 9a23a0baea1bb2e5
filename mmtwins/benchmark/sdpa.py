"""Attention of Twins with each back end of PyTorch's fused attention, and written out as two products and a softmax."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..analysis.cost import PUBLISHED_SR_RATIOS, num_keys
from ..models.architectures import ARCHITECTURES, resolve_architecture
from ..models.layers import map_sizes
from .measure import NO_ROOM, synchronize, time_in_turn
from .task import PRECISIONS

EXPLICIT = 'explicit softmax'
CHOSEN = 'chosen by PyTorch'
BACK_ENDS = {
    'flash': 'FLASH_ATTENTION',
    'memory-efficient': 'EFFICIENT_ATTENTION',
    'cuDNN': 'CUDNN_ATTENTION',
    'math': 'MATH',
}
WAYS = (CHOSEN, *BACK_ENDS, EXPLICIT)
WINDOW = 7  # tokens
LARGEST = 2**28  # weights of the reference at once


class Shape(NamedTuple):
    """Queries (batch, heads, queries, dim), and keys and values (batch, heads, keys, dim), of one module of a backbone."""

    name: str
    batch: int
    heads: int
    queries: int
    keys: int
    dim: int


def shapes_of(height: int, width: int, batch: int, arch: str | Mapping[str, Sequence] = 'small') -> list[Shape]:
    """The attentions of Twins-SVT.

    Args:
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        batch: Images at once.
        arch: Architecture of the backbone.

    Returns:
        LSA and GSA of each stage. Windows that the border cuts off count as whole ones.
    """
    shapes = []
    settings = resolve_architecture(arch, ARCHITECTURES)
    sizes = map_sizes(height, width)
    stages = zip(sizes, settings['embed_dims'], settings['num_heads'], PUBLISHED_SR_RATIOS)
    for i, ((rows, columns), dim, heads, ratio) in enumerate(stages):
        windows = batch * math.ceil(rows / WINDOW) * math.ceil(columns / WINDOW)
        keys = num_keys(rows, columns, ratio)
        shapes.append(Shape(f'LSA {i + 1}', windows, heads, WINDOW**2, WINDOW**2, dim // heads))
        shapes.append(Shape(f'GSA {i + 1}', batch, heads, rows * columns, keys, dim // heads))
    return shapes


def forced(way: str) -> Any:
    """A context in which PyTorch's fused attention has one back end.

    Args:
        way: A key of :data:`BACK_ENDS`.

    Raises:
        ImportError: This PyTorch cannot force one.
        AttributeError: This PyTorch has no such back end.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # since PyTorch 2.3

    return sdpa_kernel(getattr(SDPBackend, BACK_ENDS[way]))


def attend(way: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (batch, heads, N, d) in one of :data:`WAYS`."""
    if way == EXPLICIT:
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
    if way == CHOSEN:
        return scaled_dot_product_attention(q, k, v)
    with forced(way):
        return scaled_dot_product_attention(q, k, v)


def measure_attention(
    shape: Shape, precision: str, work: str, device: str, rounds: int = 7, repeats: int = 10, ways: Sequence[str] = WAYS
) -> dict[str, Any]:
    """Time one attention in each way, in turn.

    Args:
        shape: Of queries, keys and values, which lie in memory as the projections of the backbone give them.
        precision: ``'fp32'``, ``'bf16'`` or ``'fp16'``, of the tensors themselves.
        work: ``'inference'``, or ``'training'``: with the backward pass.
        device: Such as ``'cuda:0'``.
        rounds: How often to time each.
        repeats: Calls in each round, so that a GPU is busy.
        ways: Out of :data:`WAYS`.

    Returns:
        By way: ``seconds`` of a call in each round, and the largest ``difference`` from the written-out attention in
        float32, relative to its largest value; or a ``reason`` why there are none.
    """
    torch.manual_seed(0)
    q, k, v = (one.requires_grad_(work == 'training') for one in _project(shape, PRECISIONS[precision], device))
    with torch.no_grad():
        expected = _attend_in_float32(q, k, v)
    found: dict[str, Any] = {}
    steps: dict[str, Callable[[], object]] = {}
    for way in ways:
        step = partial(_run, way, q, k, v, work == 'training')
        try:
            out = step().detach()
            found[way] = dict(difference=((out.float() - expected).abs().max() / expected.abs().max()).item())
            steps[way] = partial(_repeat, step, repeats)
        except torch.cuda.OutOfMemoryError:
            found[way] = dict(reason=NO_ROOM)
        except (RuntimeError, ImportError, AttributeError) as error:
            found[way] = dict(reason=f'not available: {(str(error) or type(error).__name__).splitlines()[0]}')
    for way, seconds in time_in_turn(steps, rounds, partial(synchronize, device)).items():
        found[way]['seconds'] = [value / repeats for value in seconds]
    return found


def _project(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Random queries, keys and values; heads of a token lie side by side."""
    _, batch, heads, queries, keys, dim = shape
    options: dict[str, Any] = dict(device=device, dtype=dtype)
    if queries == keys:
        q, k, v = torch.randn(batch, queries, 3, heads, dim, **options).permute(2, 0, 3, 1, 4)
        return q, k, v
    q = torch.randn(batch, queries, heads, dim, **options).transpose(1, 2)
    k, v = torch.randn(batch, keys, 2, heads, dim, **options).permute(2, 0, 3, 1, 4)
    return q, k, v


def _attend_in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference, image by image or window by window, so that its weights fit into memory."""
    out = torch.empty(q.shape, device=q.device, dtype=torch.float32)
    pieces = max(1, q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] // LARGEST)
    step = max(1, q.shape[0] // pieces)
    for i in range(0, q.shape[0], step):
        out[i : i + step] = attend(EXPLICIT, *(x[i : i + step].float() for x in (q, k, v)))
    return out


def _run(way: str, q: Tensor, k: Tensor, v: Tensor, with_gradients: bool) -> Tensor:
    with torch.set_grad_enabled(with_gradients):
        out = attend(way, q, k, v)
        if with_gradients:
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
    return out


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()
