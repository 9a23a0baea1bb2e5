"""What makes the fast path fast, counted rather than timed: copies, kernels, saved bytes."""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from mmtwins import TwinsSVTBackbone
from mmtwins.models import fast_ops
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from mmtwins.models.fast_ops import GeluLinear, attend_globally, attend_locally, in_bands, linear
from mmtwins.models.windows import WINDOW_PADDINGS

ARCH = dict(embed_dims=(32, 64, 128, 160), depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 5), mlp_ratios=(4, 4, 4, 4))


def largest(tensors: Iterable[torch.Tensor]) -> float:
    """The largest magnitude in tensors; NaN if there is one."""
    return torch.stack([tensor.abs().max() for tensor in tensors]).max().item()


def record(function: Callable[[], object]) -> list[FunctionEvent]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    return list(profiler.events())


def count_calls(function: Callable[[], object]) -> Counter:
    """How often each operator ran."""
    return Counter(event.name for event in record(function))


def count_copies(function: Callable[[], object]) -> int:
    """How often activations were copied; convolutions and products may order weights and spread biases inside."""

    def is_inside(event: FunctionEvent, names: tuple[str, ...]) -> bool:
        return event.cpu_parent is not None and (event.cpu_parent.name in names or is_inside(event.cpu_parent, names))

    names = ('aten::_convolution', 'aten::addmm')
    return sum(event.name in ('aten::copy_', 'aten::cat') and not is_inside(event, names) for event in record(function))


def saved_bytes(function: Callable[[], object]) -> int:
    """Bytes that autograd keeps for the backward pass, parameters excluded, each storage once."""
    storages = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter) and not (tensor._base is not None and tensor._base.is_leaf):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return sum(storages.values())


def make_model(**kwargs) -> TwinsSVTBackbone:
    torch.manual_seed(0)
    return TwinsSVTBackbone(arch=ARCH, **kwargs)


@pytest.mark.usefixtures('two_threads')
@pytest.mark.parametrize('size', [(14, 21), (16, 21), (16, 23)], ids=['whole', 'one border', 'two borders'])
def test_local_attention_copies_each_token_once_per_order(size: tuple[int, int]) -> None:
    attn = LocallyGroupedSelfAttention(64, 2, 7).eval()
    x = torch.randn(2, *size, 64)
    regions = {(14, 21): 1, (16, 21): 2, (16, 23): 4}[size]
    with torch.no_grad():
        attend_locally(attn, x)
        assert count_copies(lambda: attend_locally(attn, x)) == 2 * regions  # into windows and back


@pytest.mark.usefixtures('two_threads')
@pytest.mark.parametrize('sr_ratio', [1, 2])
def test_global_attention_copies_nothing(sr_ratio: int) -> None:
    attn = GlobalSubsampledAttention(64, 2, sr_ratio).eval()
    x = torch.randn(2, 20, 20, 64)
    with torch.no_grad():
        attend_globally(attn, x)
        assert count_copies(lambda: attend_globally(attn, x)) == 0


@pytest.mark.usefixtures('two_threads')
def test_the_backbone_copies_images_windows_and_returned_maps_only() -> None:
    model = make_model().eval()
    x = torch.randn(1, 3, 224, 448)
    with torch.no_grad():
        model(x)
        copies = count_copies(lambda: model(x))
    windows = 4 * 2  # 7 divides 56 x 112, 28 x 56, 14 x 28 and 7 x 14 tokens: into windows and back in each stage
    assert copies == 1 + windows + 4


@pytest.mark.usefixtures('two_threads')
def test_products_in_float32_run_by_onednn() -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 64), torch.randn(96), torch.randn(2, 20, 30, 64, requires_grad=True)
    weight.requires_grad_()
    has_kernels = torch.backends.cpu.get_cpu_capability().startswith('AVX')
    assert count_calls(lambda: linear(x, weight, bias))['aten::mkldnn_convolution'] == has_kernels
    assert count_calls(lambda: linear(x[:, :2], weight, bias))['aten::mkldnn_convolution'] == 0  # too small for it
    with torch.no_grad():  # without a gradient by the product of oneDNN itself
        calls = count_calls(lambda: linear(x, weight, bias))
    assert calls['mkldnn::_linear_pointwise'] == has_kernels and calls['aten::mkldnn_convolution'] == 0
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight, bias).dtype == linear(x[:, :2], weight, bias).dtype == torch.bfloat16
    half = [value.bfloat16() for value in (x, weight, bias)]
    assert count_calls(lambda: linear(*half))['aten::mkldnn_convolution'] == 0
    plain, direction = torch.nn.functional.linear(x, weight, bias), torch.randn(2, 20, 30, 96)
    actual, expected = (torch.autograd.grad(out, [x, weight], direction) for out in (linear(x, weight, bias), plain))
    assert_close(actual, expected, rtol=1e-4, atol=2e-3)  # sums over 1200 tokens
    for context in (nullcontext(), torch.no_grad()):
        with context:
            assert_close(linear(x, weight, bias), plain, rtol=1e-5, atol=1e-4)
            assert_close(linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
            assert_close(linear(x.transpose(1, 2), weight, bias), plain.transpose(1, 2), rtol=1e-5, atol=1e-4)
            columns = weight.T.contiguous()
            assert_close(linear(x, columns.T, bias), plain, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('size', [(14, 21), (16, 21), (14, 23), (16, 23), (3, 5)])
@pytest.mark.parametrize('window_padding', WINDOW_PADDINGS)
def test_local_attention_equals_the_module(window_padding: str, size: tuple[int, int], qkv_bias: bool) -> None:
    torch.manual_seed(0)
    attn = LocallyGroupedSelfAttention(64, 2, 7, window_padding, qkv_bias)
    if qkv_bias:
        torch.nn.init.normal_(attn.qkv.bias)
    x, direction = torch.randn(2, *size, 64, requires_grad=True), torch.randn(2, *size, 64)
    inputs = [x, *attn.parameters()]
    outs = attend_locally(attn, x), attn(x)
    assert_close(*outs, rtol=1e-5, atol=1e-5)
    assert_close(*(torch.autograd.grad(out, inputs, direction) for out in outs), rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        assert_close(attend_locally(attn, x), outs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('sr_ratio', [1, 2, 4])
def test_global_attention_equals_the_module(sr_ratio: int) -> None:
    torch.manual_seed(0)
    attn = GlobalSubsampledAttention(64, 2, sr_ratio)
    x, direction = torch.randn(2, 13, 18, 64, requires_grad=True), torch.randn(2, 13, 18, 64)
    inputs = [x, *attn.parameters()]
    outs = attend_globally(attn, x), attn(x)
    assert_close(*outs, rtol=1e-5, atol=1e-5)
    assert_close(*(torch.autograd.grad(out, inputs, direction) for out in outs), rtol=1e-4, atol=1e-3)


def test_bands_equal_the_whole_map(monkeypatch) -> None:
    for kwargs in [dict(), dict(window_padding='zero'), dict(window_padding='meituan'), dict(with_cp=True)]:
        model = make_model(**kwargs).eval()
        for size in [(224, 224), (260, 300), (224, 300)]:
            x = torch.randn(2, 3, *size)
            with torch.no_grad():
                monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 2**40)
                whole = model(x)
                monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 1)
                assert_close(model(x), whole)


def test_bands_are_multiples_of_the_window_and_run_again_for_a_gradient(monkeypatch) -> None:
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 1)
    heights, x = [], torch.randn(2, 16, 5, 4)

    def square(band: torch.Tensor) -> torch.Tensor:
        heights.append(band.shape[1])
        return band * band

    with torch.no_grad():
        assert torch.equal(in_bands(square, x, num_channels=12, multiple=7), x * x)
    assert heights == [7, 7, 2]
    heights.clear()
    x.requires_grad_()
    in_bands(square, x, num_channels=12, multiple=7).sum().backward()
    assert sorted(heights) == [2, 2, 7, 7, 7, 7]  # each band once more for its gradient
    assert torch.equal(x.grad, 2 * x)


def test_bands_are_about_equal(monkeypatch) -> None:
    heights, x = [], torch.randn(1, 16, 5, 4)
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 10 * 5 * 4)  # ten rows
    with torch.no_grad():
        in_bands(lambda band: heights.append(band.shape[1]) or band, x, num_channels=4)
    assert heights == [8, 8]


def test_bands_of_several_maps_are_the_same_rows(monkeypatch) -> None:
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 2 * 5 * 4 * 3)  # three rows
    x, y = torch.randn(2, 2, 16, 5, 4)
    with torch.no_grad():
        assert torch.equal(in_bands(torch.sub, x, y, num_channels=4), x - y)


def test_dropout_and_stochastic_depth_draw_the_same_without_a_gradient(monkeypatch) -> None:
    # Else a module that another library computes again, as reentrant checkpointing does, would have wrong gradients.
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 1)
    model, x, outs = make_model(drop_path_rate=0.5, drop_rate=0.1).train(), torch.randn(4, 3, 96, 96), []
    for with_grad in (True, False):
        torch.manual_seed(1)
        with torch.set_grad_enabled(with_grad):
            outs.append(model(x))
    assert_close(*outs)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_local_attention_in_half_precision_has_the_gradients_of_the_fused_kernel(dtype: torch.dtype) -> None:
    if dtype == torch.float16 and torch.__version__.startswith('2.1.'):
        pytest.skip('torch 2.1 has no autocast to float16 on CPUs')
    torch.manual_seed(0)
    attn, x, weight = LocallyGroupedSelfAttention(64, 2, 7), torch.randn(2, 16, 23, 64), torch.randn(2, 16, 23, 64)
    torch.nn.init.normal_(attn.qkv.weight, std=0.2)  # so that weights differ
    inputs = list(attn.parameters())
    expected = torch.autograd.grad(attend_locally(attn, x), inputs, weight)
    with torch.autocast('cpu', dtype):
        out = attend_locally(attn, x)
    for actual, wanted in zip(torch.autograd.grad(out.float(), inputs, weight), expected, strict=True):
        assert (actual - wanted).abs().max() < 0.04 * wanted.abs().max()
    low = copy.deepcopy(attn).to(dtype)
    calls = count_calls(lambda: attend_locally(low, x.to(dtype)).float().sum().backward())
    assert not any('flash_attention' in name for name in calls)  # 6 times as slow backwards
    actual = torch.autograd.grad(attend_locally(low, x.to(dtype)), list(low.parameters()), weight.to(dtype))
    for half, wanted in zip(actual, expected, strict=True):
        assert half.dtype == dtype
        assert (half.float() - wanted).abs().max() < 0.04 * wanted.abs().max()


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='needs gloo')
@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_checkpointing_has_equal_gradients_under_ddp(compiled: bool, tmp_path: Path) -> None:
    if compiled and torch.__version__.startswith('2.1.'):
        pytest.skip('torch 2.1 does not compile activation checkpointing under DDP')
    x, grads = torch.randn(2, 3, 96, 128), []
    dist.init_process_group('gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1)
    try:
        for with_cp in (False, True):
            model = make_model(with_cp=with_cp)
            wrapped = DistributedDataParallel(model) if with_cp else model  # as MMEngine wraps it by default
            if with_cp and compiled:
                torch._dynamo.reset()
                counter = CompileCounterWithBackend('aot_eager')
                wrapped = torch.compile(wrapped, backend=counter)
            for _ in range(2):  # DDP builds its buckets anew after the first step
                model.zero_grad()
                sum((m * m).sum() for m in wrapped(x)).backward()
            grads.append([parameter.grad for parameter in model.parameters()])
        assert not compiled or counter.frame_count > 0
    finally:
        dist.destroy_process_group()
    assert largest(a - b for a, b in zip(*grads, strict=True)) < 1e-5 * largest(grads[0])


def test_gradients_are_the_same_where_mlps_are_computed_again_in_bands(monkeypatch) -> None:
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 1)
    x, grads = torch.randn(2, 3, 96, 128), []
    for with_cp in (False, True):
        model = make_model(with_cp=with_cp, drop_rate=0.0, drop_path_rate=0.5)
        torch.manual_seed(1)
        sum((m * m).sum() for m in model(x)).backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert largest(a - b for a, b in zip(*grads, strict=True)) < 1e-6 * largest(grads[0])


@pytest.mark.parametrize('has_bias', [True, False])
@pytest.mark.parametrize('tokens', [20, 200, 400])
def test_gelu_computed_again_has_the_gradients_of_gelu_kept(tokens: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(64, 32, bias=has_bias), torch.randn(2, tokens, 64, requires_grad=True)
    inputs, direction = [x, *layer.parameters()], torch.randn(2, tokens, 32)

    def again(x: torch.Tensor) -> torch.Tensor:
        return GeluLinear.apply(x, layer.weight, layer.bias)

    outs = again(x), layer(torch.nn.functional.gelu(x))
    assert_close(*outs)
    assert_close(*(torch.autograd.grad(out, inputs, direction) for out in outs), rtol=1e-4, atol=1e-4)
    has_kernels = torch.backends.cpu.get_cpu_capability().startswith('AVX')
    calls = count_calls(lambda: torch.autograd.grad(again(x.detach()), layer.weight, direction))
    assert calls['aten::convolution_backward'] == (has_kernels and tokens == 400)
    with torch.autocast('cpu', torch.bfloat16):
        out = again(x.bfloat16())
    assert out.dtype == torch.bfloat16
    expected = torch.autograd.grad(layer(torch.nn.functional.gelu(x)), inputs, direction)
    for grad, wanted in zip(torch.autograd.grad(out.float(), inputs, direction), expected, strict=True):
        assert grad.dtype == torch.float32
        assert (grad - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_own_gradients_can_be_differentiated_again() -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (3, 4), (3,)))
    assert torch.autograd.gradgradcheck(GeluLinear.apply, (x, weight, bias))
    regions = fast_ops.window_regions(3, 5, 2)
    x = torch.randn(1, 3, 5, 2, dtype=torch.float64, requires_grad=True)

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        tokens = fast_ops.OrderByWindow.apply(x**2, regions)
        parts = (tokens**2).split([region.num_tokens for region in regions])
        return fast_ops.OrderByMap.apply(x.shape, regions, *parts)

    assert_close(there_and_back(x), x**4)
    assert torch.autograd.gradcheck(there_and_back, x)
    assert torch.autograd.gradgradcheck(there_and_back, x)


def test_inference_leaves_its_input_as_it_was() -> None:
    model = make_model().eval()
    x = torch.randn(1, 3, 64, 96)
    tokens = torch.randn(1, 16, 24, 32)
    before = x.clone(), tokens.clone()
    with torch.no_grad():
        model(x)
        model.blocks[0][0](tokens)
        model.pos_block[0](tokens)
    assert torch.equal(x, before[0])
    assert torch.equal(tokens, before[1])


def test_training_keeps_the_activations_that_it_needs_and_checkpointing_block_inputs_only() -> None:
    x = torch.randn(1, 3, 224, 224)
    kept = saved_bytes(lambda: make_model(drop_path_rate=0.0).train()(x))
    checkpointed = saved_bytes(lambda: make_model(drop_path_rate=0.0, with_cp=True).train()(x))
    tokens = sum(4 * (56 // 2**i) ** 2 * dim for i, dim in enumerate(ARCH['embed_dims']))  # bytes of a map per stage
    # Two blocks of: input, windows, q, k and v, two orders of the attention's output, its sum, its norm, 4 of the MLP.
    assert kept < 2 * 14 * tokens
    assert checkpointed < 2 * 3.1 * tokens  # per stage: a block's input, and what lies between the blocks
