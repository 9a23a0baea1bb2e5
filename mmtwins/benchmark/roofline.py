"""How near each kind of module is to what the machine can do: its arithmetic and memory traffic, and its time.

Source: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures" (2009).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..analysis.cost import backbone_macs
from ..models import fast_ops, fast_path
from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.backbone import TwinsSVTBackbone
from ..models.layers import Mlp
from .measure import synchronize, time_in_turn
from .precision import autocast_to
from .products import Rate, fastest_product, product_steps
from .task import Task

WHOLE = 'whole backbone'
COPIED_BYTES = 2**27  # far more than a cache holds
FAST_FUNCTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    LocallyGroupedSelfAttention: fast_ops.attend_locally,
    GlobalSubsampledAttention: fast_ops.attend_globally,
    Mlp: fast_ops.run_mlp,
}


class Part(NamedTuple):
    """A module of the backbone on a map of its stage.

    Attributes:
        kind: Such as ``'LSA'``.
        number: How many modules of the stage are like it.
        macs: Of one of them.
        bytes: That one of them must move: its input, its output and its parameters, each once.
        run: Runs it once.
    """

    kind: str
    number: int
    macs: int
    bytes: int
    run: Callable[[], Tensor]


class Point(NamedTuple):
    """All modules of one kind: their MACs, the bytes that they must move, and their seconds."""

    kind: str
    macs: int
    bytes: int
    seconds: float

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte."""
        return 2 * self.macs / self.bytes

    def limit(self, flops: float, bandwidth: float) -> float:
        """The least seconds on a machine of so many FLOP/s and bytes per second."""
        return max(2 * self.macs / flops, self.bytes / bandwidth)


class Roofline(NamedTuple):
    """What the machine can do, the fastest product and bytes per second of a copy, and what modules do.

    The whole backbone has the MACs and bytes of its modules. Its time is measured and is not their sum: it adds the
    branches of blocks, and the fast path keeps in the cache what goes from one module to the next.
    """

    task: Task
    rate: Rate
    bandwidth: float
    points: list[Point]
    whole: Point


def list_parts(task: Task) -> list[Part]:
    """The modules of our backbone, on random maps of the sizes that they get, and the whole backbone.

    Attention and MLP run as in their block: through the functions of the fast path where that is taken.

    Args:
        task: An inference of the backbone.

    Returns:
        One part per stage and kind: patch embedding, LSA, GSA, MLP, position encoding and norm; the whole backbone last.

    Raises:
        ValueError: The task is a training, or a whole model.
    """
    if task.work != 'inference' or task.config is not None:
        raise ValueError(f'{task}: a roofline is drawn of the inference of a backbone')
    torch.manual_seed(0)
    model = TwinsSVTBackbone(arch=task.arch).to(task.device).eval()
    images = torch.randn(task.batch, 3, task.height, task.width, device=task.device)
    x = images.permute(0, 2, 3, 1).contiguous()
    costs = backbone_macs(task.arch, task.height, task.width)
    parts = []
    modules: Any = zip(model.patch_embeds, model.blocks, model.pos_block, model.norm_list, costs, strict=True)
    with torch.no_grad(), autocast_to(task.precision, task.device):
        for patch_embed, blocks, peg, norm, macs in modules:
            lsa, gsa = (sum(value for key, value in macs.items() if key.startswith(kind)) for kind in ('lsa', 'gsa'))
            for kind, number, module, block, total in (
                ('patch embedding', 1, patch_embed, None, macs['patch_embed']),
                ('LSA', len(blocks[::2]), blocks[0].attn, blocks[0], lsa),
                ('GSA', len(blocks[1::2]), blocks[1].attn, blocks[1], gsa),
                ('MLP', len(blocks), blocks[0].mlp, blocks[0], macs['mlp']),
                ('position encoding', 1, peg, None, macs['peg']),
                ('norm', 2 * len(blocks) + 1, norm, None, 0),
            ):
                function = module
                if block is not None and fast_path.applies(block, x):
                    function = partial(FAST_FUNCTIONS[type(module)], module)
                run = partial(_run, task, function, x)
                out = run()
                parts.append(Part(kind, number, task.batch * total // number, bytes_moved(module, x, out), run))
                x = out
    macs, moved = (sum(part.number * getattr(part, name) for part in parts) for name in ('macs', 'bytes'))
    return [*parts, Part(WHOLE, 1, macs, moved, partial(_run, task, model, images))]


def bytes_moved(module: nn.Module, x: Tensor, out: Tensor) -> int:
    """The bytes of an input, an output and the parameters of a module: what it must read or write at least once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (x, out, *module.parameters()))


def measure_roofline(task: Task, rounds: int = 7) -> Roofline:
    """Time every kind of module, the fastest product and a copy in turn.

    Args:
        task: See :func:`list_parts`.
        rounds: How often to time each.

    Returns:
        The sums over the stages, by kind; medians of modules, and the fastest round of product and copy.
    """
    parts = list_parts(task)
    source = torch.zeros(COPIED_BYTES, dtype=torch.uint8, device=task.device)
    target = torch.empty_like(source)
    products = product_steps(task)
    steps: dict[Any, Callable[[], object]] = {i: part.run for i, part in enumerate(parts)}
    steps.update(products)
    steps['copy'] = partial(target.copy_, source)
    seconds = time_in_turn(steps, rounds, partial(synchronize, task.device))
    sums: dict[str, list[float]] = {}
    for i, part in enumerate(parts):
        median = sorted(seconds[i])[rounds // 2]
        values = (part.number * value for value in (part.macs, part.bytes, median))
        sums[part.kind] = [a + b for a, b in zip(sums.get(part.kind, [0, 0, 0.0]), values, strict=True)]
    *points, whole = (Point(kind, int(macs), int(moved), time) for kind, (macs, moved, time) in sums.items())
    rate = fastest_product({product: seconds[product] for product in products})
    return Roofline(task, rate, 2 * COPIED_BYTES / min(seconds['copy']), points, whole)


@torch.no_grad()
def _run(task: Task, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with autocast_to(task.precision, task.device):
        return function(x)
