"""torch.compile and torch.export: one graph for all sizes, equal results."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.compiling import is_compiling

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 1, 1, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
TWO_STAGES = dict(
    arch=dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
    window_sizes=(7, 3),
    sr_ratios=(2, 1),
    out_indices=(0, 1),
)
ONE_STAGE = dict(
    arch=dict(embed_dims=(8,), depths=(2,), num_heads=(2,), mlp_ratios=(2,)),
    window_sizes=(7,),
    sr_ratios=(2,),
    out_indices=(0,),
)
TWO_STAGES_OF_PCPVT = dict(backbone=TwinsPCPVTBackbone, arch=TWO_STAGES['arch'], sr_ratios=(2, 1), out_indices=(0, 1))
needs_dynamo = pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='needs a torch whose export takes Dim')


def make_tiny(backbone: type = TwinsSVTBackbone, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return backbone(**{'arch': TINY, 'drop_path_rate': 0.0, **kwargs})


def assert_equal_in_training(compiled: nn.Module, model: nn.Module, x: Tensor) -> None:
    """Outputs, and gradients relative to the largest one."""
    maps, expected = compiled(x), model(x)
    assert_close(maps, expected, rtol=1e-4, atol=1e-5)
    grads, wanted = (
        torch.autograd.grad(sum((m * m).sum() for m in out), list(model.parameters())) for out in (maps, expected)
    )
    largest = max(grad.abs().max() for grad in wanted)
    assert max((a - b).abs().max() for a, b in zip(grads, wanted, strict=True)) < 1e-5 * largest


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(with_cp=True, **ONE_STAGE),
        TWO_STAGES,
        TWO_STAGES_OF_PCPVT,
    ],
)
def test_compiles_to_one_graph_for_a_size(kwargs: dict) -> None:
    model = make_tiny(**kwargs)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    x = torch.randn(2, 3, 72, 100)
    assert_equal_in_training(compiled, model, x)
    assert counter.frame_count == 1
    model.eval()
    with torch.no_grad():
        assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [ONE_STAGE, TWO_STAGES])
def test_compiles_to_one_graph_for_all_sizes(kwargs: dict) -> None:
    model = make_tiny(**kwargs)
    counter = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    assert_equal_in_training(compiled, model, torch.randn(2, 3, 72, 100))
    graphs = counter.frame_count  # the first size may be traced twice
    for shape in [(3, 3, 224, 224), (2, 3, 101, 250)]:
        assert_equal_in_training(compiled, model, torch.randn(shape))
    assert counter.frame_count == graphs


@pytest.mark.slow
@pytest.mark.no_cover  # which slows the compiler's own Python down
def test_the_default_compiler_gives_equal_results() -> None:
    model = make_tiny(**ONE_STAGE)
    assert_equal_in_training(torch.compile(model, fullgraph=True), model, torch.randn(1, 3, 72, 100))


@pytest.mark.slow
@pytest.mark.no_cover  # which slows the compiler's own Python down
@needs_dynamo
def test_exports_one_program_for_all_sizes_with_padded_patches() -> None:
    model = make_tiny(**TWO_STAGES, window_padding='meituan', patch_padding='corner').eval()
    dynamic = torch.export.Dim.DYNAMIC
    shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.randn(2, 3, 72, 100),), dynamic_shapes=shapes, strict=False
        ).module()
        for shape in [(1, 3, 224, 224), (3, 3, 224, 250), (1, 3, 101, 77), (1, 3, 64, 64)]:
            x = torch.randn(shape)
            assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)


def test_code_knows_whether_it_is_compiled() -> None:
    def double_if_compiled(x: Tensor) -> Tensor:
        return 2 * x if is_compiling() else x

    x = torch.ones(3)
    assert torch.equal(double_if_compiled(x), x)
    assert torch.equal(torch.compile(double_if_compiled, backend='eager')(x), 2 * x)
