"""When the fast path runs, and that it computes what the plain modules compute."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

import mmtwins
from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models import fast_ops, fast_path
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from mmtwins.models.block import TwinsBlock

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='needs oneDNN')
ARCH = dict(embed_dims=(32, 64), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(4, 4))


def make_block(attention: str = 'lsa', **rates: float) -> TwinsBlock:
    torch.manual_seed(0)
    attn = dict(
        lsa=lambda: LocallyGroupedSelfAttention(32, 2, 7, 'zero', attn_drop=rates.get('attn_drop', 0.0)),
        gsa=lambda: GlobalSubsampledAttention(32, 2, 2),
        mha=lambda: GlobalSubsampledAttention(32, 2, 1),
        separable=lambda: GlobalSubsampledAttention(32, 2, 2, subsampling='separable'),
        pool=lambda: GlobalSubsampledAttention(32, 2, 2, subsampling='pool'),
    )[attention]()
    return TwinsBlock(attn, 32, 4, rates.get('drop', 0.0), rates.get('drop_path', 0.0))


def make_tokens(**kwargs) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 9, 15, 32, **kwargs)


@pytest.mark.parametrize('attention', ['lsa', 'gsa', 'mha'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('mode', ['inference', 'evaluation with a gradient', 'training'])
def test_it_runs_for_plain_blocks_and_equals_the_modules(attention: str, dtype: torch.dtype, mode: str) -> None:
    block = make_block(attention, drop_path=0.5).to(dtype).train(mode == 'training')
    x = make_tokens(dtype=dtype).requires_grad_()
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == torch.float32 else dict(rtol=0.05, atol=0.05)
    with torch.set_grad_enabled(mode != 'inference'):
        assert fast_path.applies(block, x)
        results = []
        for enabled in (True, False):
            with mmtwins.fast_path(enabled):
                assert fast_path.applies(block, x) == enabled
                torch.manual_seed(2)
                out = block(x)
            grads = () if mode == 'inference' else torch.autograd.grad(out.float().sum(), [x, *block.parameters()])
            results.append((out, grads))
    assert_close(results[0][0], results[1][0], **tolerance)
    for fast, plain in zip(results[0][1], results[1][1], strict=True):
        assert (fast - plain).abs().max() <= (1e-4 if dtype == torch.float32 else 0.1) * (1 + plain.abs().max())


def test_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = make_block(), make_tokens()
    assert fast_path.applies(block, x)
    with mmtwins.fast_path(False):
        assert not fast_path.applies(block, x)
        with mmtwins.fast_path(True):
            assert fast_path.applies(block, x)
        assert not fast_path.applies(block, x)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not fast_path.applies(block, x)
    monkeypatch.setenv('MMTWINS_FAST_PATH', '0')
    assert not fast_path.applies(block, x)
    with mmtwins.fast_path(True):
        assert not fast_path.applies(block, x)
    monkeypatch.setenv('MMTWINS_FAST_PATH', '1')
    assert fast_path.applies(block, x)
    with pytest.raises(KeyError), mmtwins.fast_path(False):
        raise KeyError
    assert fast_path.applies(block, x)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Subclass(nn.Linear):
    pass


def _replace(block: TwinsBlock, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
    parent = block.get_submodule(name.rpartition('.')[0])
    setattr(parent, name.rpartition('.')[2], make(block.get_submodule(name)))


def _subclass(linear: nn.Linear) -> nn.Linear:
    other = copy.deepcopy(linear)
    other.__class__ = Subclass
    return other


NAMES = ['norm1', 'attn', 'attn.proj', 'attn.proj_drop', 'drop_path1', 'norm2', 'mlp', 'mlp.fc1', 'mlp.act', 'mlp.fc2',
         'drop_path2']  # fmt: skip
CHANGES: dict[str, Callable[[TwinsBlock], object]] = {
    **{f'hook on {n}': lambda b, n=n: b.get_submodule(n).register_forward_hook(print) for n in NAMES},
    'pre-hook': lambda b: b.attn.qkv.register_forward_pre_hook(lambda *_: None),
    'backward hook': lambda b: b.mlp.fc2.register_full_backward_hook(lambda *_: None),
    'backward pre-hook': lambda b: b.mlp.fc2.register_full_backward_pre_hook(lambda *_: None),
    'another activation': lambda b: _replace(b, 'mlp.act', lambda _: nn.ReLU()),
    'another kind of GELU': lambda b: _replace(b, 'mlp.act', lambda _: nn.GELU('tanh')),
    'another norm': lambda b: _replace(b, 'norm2', lambda _: nn.Identity()),
    'another attention': lambda b: _replace(b, 'attn', lambda _: Doubled()),
    'another MLP': lambda b: _replace(b, 'mlp', lambda _: Doubled()),
    'a subclass': lambda b: _replace(b, 'attn.qkv', _subclass),
    'a wrapper': lambda b: _replace(b, 'attn.proj', lambda m: nn.Sequential(m)),
    'a forward of its own': lambda b: setattr(b.mlp.fc1, 'forward', lambda x: nn.Linear.forward(b.mlp.fc1, x)),
    'a parametrisation': lambda b: parametrize.register_parametrization(b.mlp.fc1, 'weight', Doubled()),
    'weight norm': lambda b: nn.utils.weight_norm(b.mlp.fc1),
    'a tensor for a parameter': lambda b: (b.mlp.fc1._parameters.pop('weight'), setattr(b.mlp.fc1, 'weight', 1)),
    'other precision': lambda b: b.attn.proj.double(),
    'dropout': lambda b: setattr(b.mlp.drop1, 'p', 0.1),
    'the other dropout': lambda b: setattr(b.mlp.drop2, 'p', 0.1),
    'attention dropout': lambda b: setattr(b.attn, 'attn_drop', 0.1),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_block_runs_as_plain_modules(change: str) -> None:
    block, x = make_block(), make_tokens()
    assert fast_path.applies(block, x)
    CHANGES[change](block)
    assert not fast_path.applies(block, x)


@pytest.mark.parametrize('kind', ['separable', 'pool'])
def test_a_changed_sub_sampling_runs_as_plain_modules(kind: str) -> None:
    layers = ['sr', 'sr.depthwise', 'sr.pointwise'] if kind == 'separable' else ['sr']
    for name in layers:
        block, x = make_block(kind), make_tokens()
        assert fast_path.applies(block, x)
        handle = block.attn.get_submodule(name).register_forward_hook(lambda *_: None)
        assert not fast_path.applies(block, x)
        handle.remove()
        _replace(block.attn, name, lambda _: nn.AvgPool3d(1))
        assert not fast_path.applies(block, x)


def test_dropout_at_rest_does_not_matter() -> None:
    assert fast_path.applies(make_block(drop=0.1, attn_drop=0.1).eval(), make_tokens())


def test_a_changed_class_runs_as_plain_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = make_block(), make_tokens()
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, 'forward', lambda self, x: forward(self, x))
    assert not fast_path.applies(block, x)


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_whoever_watches_single_operations_sees_plain_modules() -> None:
    block, x = make_block().requires_grad_(False), make_tokens()
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(fast_path.applies(block, x))
        return block(x).sum()

    with Seen():
        look(x)
    torch.func.grad(look)(x)
    if not torch.__version__.startswith('2.1.'):  # where vmap has no rule for fused attention
        torch.func.vmap(look)(x[None])
    torch.jit.trace(look, x, check_trace=False)  # the check runs the function once more, untraced
    with torch.device('cpu'):
        look(x)
    with torch.autograd.forward_ad.dual_level():
        seen.append(fast_path.applies(block, torch.autograd.forward_ad.make_dual(x, x)))
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    look(x)
    handle.remove()
    assert len(seen) >= 6
    assert not any(seen)
    assert fast_path.applies(block, x)


def test_a_compiled_block_is_plain_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = make_block(), make_tokens()
    expected = block(x)
    monkeypatch.setattr(fast_path, 'run_block', None)
    with pytest.raises(TypeError):
        block(x)
    assert_close(torch.compile(block, backend='eager', fullgraph=True)(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    'x',
    [
        make_tokens(dtype=torch.float64),
        make_tokens().to('meta'),
        make_tokens()[:0],
        nn.Parameter(make_tokens()),
        make_tokens(dtype=torch.bfloat16),
    ],
    ids=['float64', 'meta', 'empty', 'a subclass of tensors', 'not of the precision of the weights'],
)
def test_other_inputs_run_as_plain_modules(x: Tensor) -> None:
    assert not fast_path.applies(make_block(), x)


@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_each_block_of_a_backbone_takes_it(family: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, taken = family(arch=ARCH, sr_ratios=(2, 1), out_indices=(0, 1), **(
        dict(window_sizes=(7, 7)) if family is TwinsSVTBackbone else {}
    )), []  # fmt: skip
    run = fast_path.run_block
    monkeypatch.setattr(fast_path, 'run_block', lambda block, x: taken.append(block) or run(block, x))
    model(torch.randn(1, 3, 64, 64))
    assert len(taken) == 4


def test_checkpointing_computes_mlps_band_by_band(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, run = [], fast_ops.run_mlp
    monkeypatch.setattr(
        fast_ops, 'run_mlp', lambda *args, **kwargs: calls.append(kwargs['saves_memory']) or run(*args, **kwargs)
    )
    for with_cp in (False, True):
        model = TwinsSVTBackbone(arch=ARCH, window_sizes=(7, 7), sr_ratios=(2, 1), out_indices=(0, 1), with_cp=with_cp)
        sum(m.sum() for m in model(torch.randn(1, 3, 64, 64))).backward()
    assert calls == [False] * 4 + [True] * 8  # forward, and once more in the backward pass
    assert not fast_path._saves_memory.get()
