"""The three sub-samplings of GSA against loops, in both families, compiled, exported and traced."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import mmtwins
from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models import fast_path
from mmtwins.models.attention import GlobalSubsampledAttention
from mmtwins.models.block import TwinsBlock
from mmtwins.models.subsampling import SUBSAMPLINGS, make_subsampling, subsampling_per_stage
from mmtwins.models.windows import Size, as_pair

DIM, HEADS = 8, 2
ARCH = dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2))
RECTANGLES = dict(arch=ARCH, sr_ratios=((2, 3), (3, 1)), out_indices=(0, 1), drop_path_rate=0.0)

every_kind = pytest.mark.parametrize('kind', SUBSAMPLINGS)


def make_backbone(kind: str | tuple, family: type = TwinsSVTBackbone, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    windows = dict(window_sizes=((3, 5), (4, 2))) if family is TwinsSVTBackbone else {}
    model = family(**{**RECTANGLES, **windows, 'subsampling': kind, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def representatives(attn: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """One per sub-window, by loops: (B, H, W, C) -> (B, M, C)."""
    rows, columns = as_pair(attn.sr_ratio)
    cells = []
    for top, left in itertools.product(
        range(0, x.shape[1] - rows + 1, rows), range(0, x.shape[2] - columns + 1, columns)
    ):
        cell = x[:, top : top + rows, left : left + columns]
        if attn.subsampling == 'pool':
            cells.append(cell.mean((1, 2)))
        elif attn.subsampling == 'conv':
            cells.append(torch.einsum('brsc,ocrs->bo', cell, attn.sr.weight) + attn.sr.bias)
        else:
            kept = torch.einsum('brsc,crs->bc', cell, attn.sr.depthwise.weight[:, 0])
            cells.append(kept @ attn.sr.pointwise.weight[:, :, 0, 0].T + attn.sr.pointwise.bias)
    return F.layer_norm(torch.stack(cells, dim=1), (x.shape[3],), attn.norm.weight, attn.norm.bias, 1e-5)


def naive_gsa(attn: GlobalSubsampledAttention, x: Tensor) -> Tensor:
    """Attention of every token to :func:`representatives`, head by head."""
    q, (k, v) = attn.q(x).flatten(1, 2), attn.kv(representatives(attn, x)).chunk(2, dim=-1)
    heads = []
    for q_head, k_head, v_head in zip(*(t.chunk(attn.num_heads, dim=-1) for t in (q, k, v)), strict=True):
        heads.append((q_head @ k_head.mT / q_head.shape[-1] ** 0.5).softmax(-1) @ v_head)
    return attn.proj(torch.cat(heads, dim=-1)).view(x.shape)


@every_kind
@pytest.mark.parametrize('sr_ratio', [2, (2, 3), (3, 1), (7, 8)])
def test_attention_equals_a_loop(kind: str, sr_ratio: Size) -> None:
    torch.manual_seed(0)
    attn = GlobalSubsampledAttention(DIM, HEADS, sr_ratio, subsampling=kind)
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.3)
    block = TwinsBlock(attn, DIM, 2, 0.0, 0.0)
    x = torch.randn(2, 7, 8, DIM, requires_grad=True)  # rows and columns that fill no sub-window give no key
    assert_close(attn(x), naive_gsa(attn, x), rtol=1e-4, atol=1e-5)
    inputs, weight = [x, *attn.parameters()], torch.randn(x.shape)
    grads = [
        torch.autograd.grad((function(x) * weight).sum(), inputs) for function in (attn, lambda x: naive_gsa(attn, x))
    ]
    assert_close(*grads, rtol=1e-3, atol=1e-4)
    assert fast_path.applies(block, x) or not torch.backends.mkldnn.is_available()
    with mmtwins.fast_path(False):
        expected = block(x)
    assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@every_kind
def test_one_token_per_sub_window_is_no_sub_sampling(kind: str) -> None:
    for sr_ratio in (1, (1, 1)):
        attn = GlobalSubsampledAttention(DIM, HEADS, sr_ratio, subsampling=kind)
        assert not attn.subsamples and not hasattr(attn, 'sr') and not hasattr(attn, 'norm')


def test_weights_of_each_kind() -> None:
    shapes = {
        kind: {name: tuple(value.shape) for name, value in make_subsampling(kind, 6, (2, 5)).named_parameters()}
        for kind in SUBSAMPLINGS
    }
    assert shapes == {
        'conv': {'weight': (6, 6, 2, 5), 'bias': (6,)},
        'separable': {'depthwise.weight': (6, 1, 2, 5), 'pointwise.weight': (6, 6, 1, 1), 'pointwise.bias': (6,)},
        'pool': {},
    }
    names = [set(make_backbone('conv', sr_ratios=ratios).state_dict()) for ratios in ((2, 1), ((2, 2), (1, 1)))]
    assert names[0] == names[1]


@every_kind
@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
@pytest.mark.filterwarnings('ignore')
def test_backbones_train_trace_and_run_without_the_fast_path(kind: str, family: type) -> None:
    model, x = make_backbone(kind, family), torch.randn(2, 3, 52, 75)
    assert {attn.subsampling for attn in model.modules() if isinstance(attn, GlobalSubsampledAttention)} == {kind}
    maps = model.train()(x)
    sum((m**2).mean() for m in maps).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    with torch.no_grad():
        with mmtwins.fast_path(False):
            assert_close(model(x), maps, rtol=1e-3, atol=1e-4)
        assert_close(torch.jit.trace(model, x)(x * 2 + 1), model(x * 2 + 1), rtol=1e-3, atol=1e-4)


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='needs a torch whose export takes Dim')
@pytest.mark.parametrize(
    'kind', ['pool', *(pytest.param(kind, marks=pytest.mark.slow) for kind in ('conv', 'separable'))]
)
def test_one_exported_program_serves_all_sizes(kind: str) -> None:
    one_stage = dict(arch={key: values[:1] for key, values in ARCH.items()}, sr_ratios=((2, 3),), out_indices=(0,))
    model = make_backbone(kind, window_sizes=((3, 5),), window_padding='meituan', **one_stage)
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
        program = torch.export.export(model, (torch.randn(2, 3, 52, 75),), dynamic_shapes=shapes, strict=False).module()
        for size in [(1, 3, 52, 75), (3, 3, 48, 100), (2, 3, 60, 77), (1, 3, 32, 32)]:
            x = torch.randn(size)
            assert_close(program(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.no_cover
@every_kind
def test_each_kind_compiles_to_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    model, x = make_backbone(kind), torch.randn(2, 3, 52, 75)
    assert_close(torch.compile(model, backend='aot_eager', fullgraph=True)(x), model(x), rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def test_each_stage_may_have_its_own() -> None:
    model = make_backbone(('pool', 'separable'))
    assert [stage[1].attn.subsampling for stage in model.blocks] == ['pool', 'separable']
    assert 'blocks.0.1.attn.sr.weight' not in model.state_dict()
    assert subsampling_per_stage(['pool', 'conv'], 2) == ('pool', 'conv')
    assert subsampling_per_stage('conv', 3) == ('conv',) * 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(subsampling='max'), "subsampling='max' is unknown: choose one of conv, separable, pool"),
        (dict(subsampling=('pool', 'max')), "subsampling='max' is unknown"),
        (dict(subsampling=('pool',)), r"subsampling=\('pool',\) does not match the 2 stages: give one of conv"),
        (dict(subsampling=None), 'subsampling=None is unknown'),
        (dict(sr_ratios=((2, 3, 4), 1)), r'sr_ratios=.*give a positive integer per stage, or a pair'),
        (dict(sr_ratios=((2, 0), 1)), 'sr_ratios=.*give a positive integer per stage'),
        (dict(sr_ratios=(2, 3, 1)), r'sr_ratios=\(2, 3, 1\) does not match the 2 stages'),
    ],
)
@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_wrong_values_are_refused(arguments: dict, message: str, family: type) -> None:
    with pytest.raises(ValueError, match=message):
        make_backbone(**{'kind': 'conv', 'family': family, **arguments})


def test_the_smallest_image_has_one_sub_window_along_each_axis() -> None:
    model = make_backbone('pool', sr_ratios=((2, 20), (5, 1)))
    assert model.min_input_size == (40, 80) and model.min_input_side == 80
    model(torch.randn(1, 3, 40, 80))
    with pytest.raises(ValueError, match='39 x 80 pixels is too small: the smallest input is 40 x 80 pixels'):
        model(torch.randn(1, 3, 39, 80))
    with pytest.raises(ValueError, match='too small'):
        model(torch.randn(1, 3, 80, 40))
