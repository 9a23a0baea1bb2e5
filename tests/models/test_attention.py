"""LSA against a naive loop over windows, GSA against plain attention, and the known faults of public code."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from mmtwins.models import attention
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from mmtwins.models.fast_ops import attend_locally
from mmtwins.models.windows import WINDOW_PADDINGS, Size, as_pair

DIM, HEADS, WINDOW = 8, 2, 3
SIZES = {'none': (6, 9), 'bottom': (7, 6), 'right': (6, 8), 'both': (7, 8), 'smaller than a window': (2, 2)}


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(N, d), (M, d), (M, d) -> (N, d), written out."""
    return (q @ k.T / q.shape[-1] ** 0.5).softmax(dim=-1) @ v


def naive_lsa(attn: LocallyGroupedSelfAttention, x: Tensor, padding_attends: bool) -> Tensor:
    """Pads, then loops over batch, windows and heads: what the public code means to compute."""
    batch, height, width, dim = x.shape
    (rows, columns), head_dim = as_pair(attn.window_size), dim // attn.num_heads
    padded_h, padded_w = -height % rows + height, -width % columns + width
    padded = x.new_zeros(batch, padded_h, padded_w, dim)
    padded[:, :height, :width] = x
    is_real = torch.zeros(padded_h, padded_w, dtype=torch.bool)
    is_real[:height, :width] = True
    out = torch.zeros_like(padded)
    for b, top, left in itertools.product(range(batch), range(0, padded_h, rows), range(0, padded_w, columns)):
        window = (slice(top, top + rows), slice(left, left + columns))
        real = is_real[window].reshape(-1)
        qkv = torch.nn.functional.linear(padded[(b, *window)].reshape(-1, dim), attn.qkv.weight, attn.qkv.bias)
        q, k, v = qkv.split(dim, dim=-1)
        keys = torch.ones_like(real) if padding_attends else real
        heads = [
            softmax_attention(q[:, channels], k[keys][:, channels], v[keys][:, channels])
            for channels in (slice(h * head_dim, (h + 1) * head_dim) for h in range(attn.num_heads))
        ]
        out[(b, *window)] = attn.proj(torch.cat(heads, dim=-1)).reshape(rows, columns, dim)
    return out[:, :height, :width]


def make_lsa(window_padding: str, qkv_bias: bool = True, window_size: Size = WINDOW) -> LocallyGroupedSelfAttention:
    torch.manual_seed(0)
    attn = LocallyGroupedSelfAttention(DIM, HEADS, window_size, window_padding, qkv_bias)
    if qkv_bias:
        torch.nn.init.normal_(attn.qkv.bias)
    return attn


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('window_padding', ['masked', 'zero'])
def test_lsa_equals_naive_loop(window_padding: str, qkv_bias: bool, size: tuple[int, int]) -> None:
    attn = make_lsa(window_padding, qkv_bias)
    x = torch.randn(2, *size, DIM)
    assert_close(attn(x), naive_lsa(attn, x, padding_attends=window_padding == 'zero'), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('window_size', [(2, 3), (3, 2), (4, 1), (9, 2)])
@pytest.mark.parametrize('window_padding', WINDOW_PADDINGS)
def test_rectangular_windows_equal_the_naive_loop(window_padding: str, window_size: tuple[int, int]) -> None:
    attn = make_lsa(window_padding, window_size=window_size)
    for size in SIZES.values():
        x = torch.randn(2, *size, DIM)
        pads = [length % side > 0 for length, side in zip(size, window_size)]
        attends = {'masked': False, 'zero': True, 'meituan': sum(pads) == 1}[window_padding]
        expected = naive_lsa(attn, x, attends)
        assert_close(attn(x), expected, rtol=1e-5, atol=1e-6)
        assert_close(attn.proj(attn._attend_padded(x)), expected, rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            assert_close(attend_locally(attn, x), expected, rtol=1e-5, atol=1e-6)
    square = make_lsa(window_padding, window_size=(WINDOW, WINDOW))
    assert torch.equal(square(x), make_lsa(window_padding)(x))


def test_by_default_biases_are_learned_windows_are_masked_and_nothing_is_dropped() -> None:
    local, subsampled = LocallyGroupedSelfAttention(DIM, HEADS, WINDOW), GlobalSubsampledAttention(DIM, HEADS, 2)
    assert local.window_padding == 'masked'
    for attn, layers in ((local, ('qkv', 'proj')), (subsampled, ('q', 'kv', 'proj'))):
        assert all(attn.get_submodule(layer).bias is not None for layer in layers)
        assert attn.attn_drop == attn.proj_drop.p == 0.0
    unbiased = GlobalSubsampledAttention(DIM, HEADS, 2, qkv_bias=False)
    assert [unbiased.q.bias, unbiased.kv.bias] == [None, None]


@pytest.mark.parametrize('axes', SIZES)
def test_meituan_is_zero_where_one_axis_is_padded_and_masked_elsewhere(axes: str) -> None:
    x = torch.randn(2, *SIZES[axes], DIM)
    masked, zero, meituan = (make_lsa(mode)(x) for mode in ('masked', 'zero', 'meituan'))
    assert torch.equal(meituan, zero if axes in ('bottom', 'right') else masked)
    assert torch.equal(zero, masked) == (axes == 'none')


def test_masked_windows_equal_attention_on_the_cut_out_region() -> None:
    # The public mask ``mask[:, -pad:]`` with pad 0 covers everything, so padding attended with one axis padded.
    attn = make_lsa('masked')
    x = torch.randn(1, 6, 8, DIM)
    assert_close(attn(x)[:, 3:6, 6:8], attn(x[:, 3:6, 6:8]))
    # What stands beyond a window's border has no influence on it.
    changed = x.clone()
    changed[:, :, 6:] = 100.0
    assert_close(attn(changed)[:, :, :6], attn(x)[:, :, :6], rtol=0, atol=0)


def test_gsa_equals_attention_over_convolved_sub_windows() -> None:
    torch.manual_seed(0)
    attn = GlobalSubsampledAttention(DIM, HEADS, sr_ratio=2)
    x = torch.randn(2, 5, 7, DIM)  # the last row and column fill no sub-window
    patches = x[:, :4, :6].reshape(2, 2, 2, 3, 2, DIM).permute(0, 1, 3, 5, 2, 4).reshape(2, 6, -1)
    convolved = patches @ attn.sr.weight.reshape(DIM, -1).T + attn.sr.bias
    representatives = torch.nn.functional.layer_norm(convolved, (DIM,), attn.norm.weight, attn.norm.bias, eps=1e-5)
    head_dim = DIM // HEADS
    for b in range(2):
        q = attn.q(x[b].reshape(35, DIM))
        k, v = attn.kv(representatives[b]).split(DIM, dim=-1)
        heads = [
            softmax_attention(q[:, channels], k[:, channels], v[:, channels])
            for channels in (slice(h * head_dim, (h + 1) * head_dim) for h in range(HEADS))
        ]
        expected = attn.proj(torch.cat(heads, dim=-1)).reshape(5, 7, DIM)
        assert_close(attn(x)[b], expected, rtol=1e-5, atol=1e-6)


def test_gsa_with_ratio_one_is_plain_multi_head_attention() -> None:
    torch.manual_seed(0)
    attn = GlobalSubsampledAttention(DIM, HEADS, sr_ratio=1)
    plain = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    plain.in_proj_weight.data = torch.cat([attn.q.weight, attn.kv.weight])
    plain.in_proj_bias.data = torch.cat([attn.q.bias, attn.kv.bias])
    plain.out_proj = attn.proj
    x = torch.randn(2, 4, 5, DIM)
    tokens = x.reshape(2, 20, DIM)
    assert_close(attn(x).reshape(2, 20, DIM), plain(tokens, tokens, tokens)[0], rtol=1e-5, atol=1e-6)
    assert not hasattr(attn, 'sr')
    assert not hasattr(attn, 'norm')


@pytest.mark.parametrize('window_padding', ['masked', 'zero', 'meituan'])
def test_gradients_of_cut_windows_match_the_naive_loop(window_padding: str) -> None:
    attn = make_lsa(window_padding)
    x = torch.randn(1, 7, 8, DIM, requires_grad=True)
    weight = torch.randn(1, 7, 8, DIM)
    wanted = [x, attn.qkv.weight, attn.qkv.bias, attn.proj.weight]
    actual = torch.autograd.grad((attn(x) * weight).sum(), wanted)
    naive = naive_lsa(attn, x, padding_attends=window_padding == 'zero')
    assert_close(actual, torch.autograd.grad((naive * weight).sum(), wanted), rtol=1e-4, atol=1e-5)


def test_more_windows_than_a_kernel_takes_are_attended_in_parts(monkeypatch) -> None:
    attn = make_lsa('zero')
    qkv, mask = torch.randn(14, 9, 3 * DIM), torch.rand(14, 1, 1, 9) > 0.3
    expected = attn._attend(qkv), attn._attend(qkv, mask)
    sizes = []
    assert attention.MAX_BATCH <= 65535  # of the axes y and z of a CUDA grid

    def attend(q: Tensor, *args) -> Tensor:
        sizes.append(len(q))
        return scaled_dot_product_attention(q, *args)

    monkeypatch.setattr(attention, 'scaled_dot_product_attention', attend)
    monkeypatch.setattr(attention, 'MAX_BATCH', 5)
    attn._attend(qkv)
    assert sizes == [14]
    monkeypatch.setattr(Tensor, 'is_cuda', True)  # the limit is that of CUDA's kernels
    assert_close((attn._attend(qkv), attn._attend(qkv, mask)), expected)
    attn._attend(qkv[:5])
    assert sizes[1:] == [5, 5, 4, 5, 5, 4, 5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_a_gpu_takes_more_windows_than_its_kernels(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    attn = LocallyGroupedSelfAttention(dim=32, num_heads=1, window_size=2)
    x = torch.randn(1, 520, 520, 32)  # 67600 windows
    with torch.no_grad():
        expected, actual = attn(x), attn.to('cuda', dtype)(x.to('cuda', dtype))
    tolerance = 1e-2 if dtype is torch.float16 else 1e-4
    assert_close(actual.float().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('window_padding', WINDOW_PADDINGS)
def test_lsa_for_symbolic_sizes_equals_lsa_for_known_ones(window_padding: str, size: tuple[int, int]) -> None:
    attn = make_lsa(window_padding)
    x = torch.randn(2, *size, DIM)
    assert_close(attn.proj(attn._attend_padded(x)), attn(x), rtol=1e-5, atol=1e-6)


def test_only_a_compiler_gets_whole_windows_with_a_mask(monkeypatch) -> None:
    attn, x, calls = make_lsa('masked'), torch.randn(1, 5, 7, DIM), []
    monkeypatch.setattr(attn, '_attend_padded', lambda x: calls.append(x.shape) or x)
    attn(x)
    assert not calls
    monkeypatch.setattr('mmtwins.models.attention.is_compiling', lambda: True)
    assert torch.equal(attn(x), attn.proj(x))
    assert calls == [x.shape]


def test_attention_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 6, DIM)
    modules = [
        LocallyGroupedSelfAttention(DIM, HEADS, WINDOW, attn_drop=0.5),
        GlobalSubsampledAttention(DIM, HEADS, 2, attn_drop=0.5),
    ]
    for attn in modules:
        assert not torch.equal(attn(x), attn(x))
        attn.eval()
        without = attn(x)
        attn.train().attn_drop = 0.0
        assert torch.equal(attn(x), without)
