"""Count what a model costs as it runs: parameters, multiply-accumulates and activations by module.

The convention, here and in the closed form of :mod:`mmtwins.analysis.cost`: one MAC is a multiplication and an addition,
1 MAC = 2 FLOPs; what papers on vision models call FLOPs are MACs. Counted are convolutions, linear layers, matrix
products and both products of attention (queries with keys, weights with values), fused or not. Not counted are biases,
norms, activation functions, softmax, pooling, interpolation, RoIAlign, additions and whatever only moves data.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import conv_flop_count

from ..engine.model import build_on_meta

CONVENTION = (
    '1 MAC = 2 FLOPs. MACs of convolutions, linear layers, matrix products and attention (both products, fused or not), '
    'without biases, norms, activation functions, softmax, pooling, interpolation and RoIAlign. Activations are the '
    'elements that these operations write; fused attention writes no attention weights. One image; a two-stage detector '
    'with {num_proposals} proposals, of which its mask head sees 100.'
)


class Cost(NamedTuple):
    """Cost of a module with everything inside it.

    ``parameters``, frozen ones included and shared ones once; ``macs``; ``activations``, elements that the counted
    operations write.
    """

    parameters: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: 'Cost') -> 'Cost':  # type: ignore[override]  # adds costs, where tuples join
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Complexity(NamedTuple):
    """Costs of a model by module.

    ``costs`` has every module by its qualified name, the whole model under ``''``, in the order of ``named_modules``;
    ``kinds`` the names of their classes; ``input_shape`` is (channels, height, width) in pixels.
    """

    costs: dict[str, Cost]
    kinds: dict[str, str]
    input_shape: tuple[int, int, int]
    num_proposals: int

    @property
    def total(self) -> Cost:
        """The cost of the whole model."""
        return self.costs['']

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON, with the convention and FLOPs = 2 MACs."""
        modules = {
            name: dict(type=self.kinds[name], **cost._asdict(), flops=2 * cost.macs)
            for name, cost in self.costs.items()
        }
        return dict(
            convention=CONVENTION.format(num_proposals=self.num_proposals),
            input_shape=list(self.input_shape),
            total=modules.pop(''),
            modules=modules,
        )

    def to_table(self, depth: int = 2) -> Table:
        """A table of the modules that have parameters or MACs.

        Args:
            depth: How deep to go: 0 is the whole model, 1 its parts such as the backbone, 2 their parts.
        """
        height, width = self.input_shape[1:]
        table = Table(title=f'{self.kinds[""]}, {height} x {width} pixels', title_justify='left')
        table.add_column('module', no_wrap=True)
        table.add_column('type', no_wrap=True)
        for title in ('parameters (M)', 'MACs (G)', 'of all', 'activations (M)'):
            table.add_column(title, justify='right', no_wrap=True)
        for name, cost in self.costs.items():
            level = name.count('.') + 1 if name else 0
            if level > depth or not any(cost):
                continue
            label = '  ' * level + (name.rpartition('.')[2] or 'whole model')
            share = f'{cost.macs / max(self.total.macs, 1):.1%}'
            numbers = (f'{cost.parameters / 1e6:.3f}', f'{cost.macs / 1e9:.3f}', share, f'{cost.activations / 1e6:.2f}')
            table.add_row(label, self.kinds[name], *numbers)
        return table


def count(model: nn.Module, height: int, width: int, in_channels: int = 3, num_proposals: int = 1000) -> Complexity:
    """Count what one forward pass of a model executes for one image, without computing it.

    The operations that PyTorch executes are counted, not the modules that should execute them, on a copy without
    data, in evaluation mode. Models of MMSegmentation and MMDetection run in their mode ``tensor``: without auxiliary
    heads, losses and post-processing. The proposals of a two-stage detector depend on the image; its RoI head gets
    ``num_proposals``, its mask head the first 100 of them.

    Args:
        model: Any module that takes images (1, in_channels, H, W), or a model of MMSegmentation or MMDetection;
            stays as it is.
        height: H, in pixels.
        width: W, in pixels.
        in_channels: Channels of the image.
        num_proposals: Regions that the RoI head of a two-stage detector works on.

    Returns:
        Costs of every module.

    Raises:
        ValueError: The image is too small for the model, or the model asks for the values of what it computes.

    Source: proposals as in ``forward_dummy`` of MMDetection 2, with which published FLOPs were counted; activations
        as in fvcore.
    """
    if min(height, width, num_proposals) < 1:
        raise ValueError(f'{height} x {width} pixels, {num_proposals} proposals: give numbers of at least 1')
    model = copy.deepcopy(model).to('meta').eval()
    counter = _OperationCounter()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(partial(counter.enter, name))
        module.register_forward_hook(counter.leave)
    with torch.inference_mode(), torch.device('meta'):
        images = torch.empty(1, in_channels, height, width)
        try:
            with counter:
                _forward(model, images, num_proposals)
        except ValueError:
            raise
        except Exception as error:  # models that need values or annotations raise different errors
            reason = next(iter(str(error).strip().splitlines()), '')
            raise ValueError(
                f'{type(model).__name__} cannot be counted at {height} x {width} pixels without computing '
                f'({type(error).__name__}: {reason}): count its backbone alone, or another model'
            ) from error
    costs = {name: Cost() for name, _ in model.named_modules()}
    for name, parameter in model.named_parameters():
        counter.costs[name.rpartition('.')[0]] += Cost(parameters=parameter.numel())
    for name, cost in counter.costs.items():
        for ancestor in _ancestors(name):
            costs[ancestor] += cost
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return Complexity(costs, kinds, (in_channels, height, width), num_proposals)


def count_call(call: Callable[[], Any]) -> int:
    """Count the MACs of what a call computes, for models that ask for values; operators of MMCV are not counted.

    Args:
        call: Such as a prediction.

    Returns:
        MACs.
    """
    counter = _OperationCounter()
    with torch.inference_mode(), counter:
        call()
    return sum(cost.macs for cost in counter.costs.values())


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config without its weights; without allocating them either, if its classes allow that.

    Args:
        cfg: Config with ``model`` and ``default_scope``, as ``load_config`` returns it.

    Returns:
        The model, on the meta device.

    Raises:
        ValueError: The config has no model, or the model cannot be built.
    """
    if not cfg.get('model'):
        raise ValueError(f'{cfg.filename} has no model: give the config of a segmentor or a detector')
    try:
        return build_on_meta(cfg)
    except (TypeError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f'the model of {cfg.filename} cannot be built: {error}') from error


class _OperationCounter(TorchDispatchMode):
    """Add up costs by name of the innermost module that is running.

    torch's FlopCounterMode gives the formulas only: it counts no activations, names modules by class and attribute
    instead of by qualified name, and before torch 2.4 misses what inference mode leaves whole, such as ``linear``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.running = ['']
        self.costs: defaultdict[str, Cost] = defaultdict(Cost)

    def enter(self, name: str, *_: Any) -> None:
        self.running.append(name)

    def leave(self, *_: Any) -> None:
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: tuple, args: tuple = (), kwargs: Mapping | None = None) -> Any:
        kwargs = kwargs or {}
        macs_of = MACS.get(func._overloadpacket)
        if macs_of is None:
            # Inference mode passes whole operations such as attention. What has no formula is counted by its parts.
            with self:
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        written = out[0] if isinstance(out, tuple) else out
        self.costs[self.running[-1]] += Cost(macs=macs_of(written, *args), activations=written.numel())
        return out


def _product(out: Tensor, a: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


def _product_and_sum(out: Tensor, addend: Tensor, a: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *options: Any) -> int:
    _bias, _stride, _padding, _dilation, transposed = options[:5]
    return conv_flop_count(list(x.shape), list(weight.shape), list(out.shape), transposed) // 2


def _attention(out: Tensor, q: Tensor, k: Tensor, *_: Any) -> int:
    return (q.numel() + out.numel()) * k.shape[-2]


_aten = torch.ops.aten
MACS: dict[Any, Callable[..., int]] = {
    _aten.linear: _product,
    _aten.mm: _product,
    _aten.bmm: _product,
    _aten.mv: _product,
    _aten.dot: lambda out, a, *_: a.numel(),
    _aten.addmm: _product_and_sum,
    _aten.addmv: _product_and_sum,
    _aten.baddbmm: _product_and_sum,
    _aten.convolution: _convolution,
    _aten.scaled_dot_product_attention: _attention,
}
KERNELS = ('flash_attention_for_cpu', 'flash_attention', 'efficient_attention')  # in models that call them themselves
MACS |= {
    getattr(_aten, f'_scaled_dot_product_{kernel}'): _attention
    for kernel in KERNELS
    if hasattr(_aten, f'_scaled_dot_product_{kernel}')  # not in every torch
}


def _forward(model: nn.Module, images: Tensor, num_proposals: int) -> None:
    if not isinstance(model, BaseModel):
        model(images)
    elif not (hasattr(model, 'rpn_head') and hasattr(model, 'roi_head')):
        model(images, mode='tensor')
    else:
        for module in model.roi_head.modules():
            if hasattr(module, 'roi_layers'):  # an RoI extractor
                # mmcv's RoIAlign cannot run without data. It has no MACs.
                module.forward = lambda feats, rois, *_, extractor=module: feats[0].new_empty(
                    len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size
                )
        features = model.extract_feat(images)
        model.rpn_head(features)
        proposals = InstanceData(bboxes=torch.empty(num_proposals, 4))
        model.roi_head.forward(features, [proposals], None)


def _ancestors(name: str) -> list[str]:
    """A module's own name and those of all modules around it."""
    parts = name.split('.') if name else []
    return ['.'.join(parts[:i]) for i in range(len(parts) + 1)]
