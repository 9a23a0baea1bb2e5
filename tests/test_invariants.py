"""What people do to a backbone: both families, all window paddings and odd sizes hold it, with the fast path and without."""

import copy
import io
import itertools
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from fsdp_cases import CASES, OTHER_SUBSAMPLINGS, VARIANTS, WORLD_SIZE, fully_shard, make_backbone
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import mmtwins
from mmtwins.analysis.counting import count
from mmtwins.export.runtimes import OLDER_EXPORTER
from mmtwins.models import fast_ops, fast_path
from mmtwins.models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from mmtwins.models.block import TwinsBlock
from mmtwins.models.layers import Mlp

# 9 x 12 and 4 x 6 tokens in windows of 7 and 3: both axes are cut, then one alone; 14 x 12 and 7 x 6: one axis alone.
SIZES = [(37, 50), (56, 51)]
LINEAR_LAYERS = ('qkv', 'q', 'kv', 'proj', 'fc1', 'fc2')
FAMILIES = ['svt-meituan', 'pcpvt']

every_variant = pytest.mark.parametrize(
    'variant', [*VARIANTS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHER_SUBSAMPLINGS)]
)
# For the compiler, a window padding is a different constant.
compiled_variants = pytest.mark.parametrize(
    'variant',
    [
        name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow)
        for name in (*VARIANTS, *OTHER_SUBSAMPLINGS)
    ],
)
both_families = pytest.mark.parametrize('variant', FAMILIES)
every_size = pytest.mark.parametrize('size', SIZES, ids=lambda size: '{}x{}'.format(*size))


def math_attention() -> AbstractContextManager:
    """Attention without a fused kernel."""
    attention = pytest.importorskip('torch.nn.attention', reason='forcing a back end needs PyTorch 2.3')
    return attention.sdpa_kernel(attention.SDPBackend.MATH)


@pytest.fixture
def vmap_of_attention() -> None:
    """Skips where PyTorch lacks it, as 2.1 does."""
    tokens = torch.ones(2, 1, 1, 4, 8)
    try:
        vmap(lambda x: scaled_dot_product_attention(x, x, x))(tokens)
    except RuntimeError:
        pytest.skip('this PyTorch has no vmap of fused attention on a CPU')


def images(size: tuple[int, int] = SIZES[0], batch: int = 2, **kwargs) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(batch), **kwargs)


def loss_of(maps: tuple[Tensor, ...]) -> Tensor:
    return sum((m.float() ** 2).mean() for m in maps)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(parameters, torch.autograd.grad(loss_of(model(x)), list(parameters.values()))))


def assert_near(given: object, expected: object, tolerance: float = 1e-4) -> None:
    assert_close(given, expected, rtol=tolerance, atol=tolerance)


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The blocks that the fast path computed."""
    blocks, run = [], fast_path.run_block
    monkeypatch.setattr(fast_path, 'run_block', lambda block, x: blocks.append(block) or run(block, x))
    return blocks


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path cuts tiny maps into bands, as it does an image of 800 x 1344."""
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 2**9)


# The two paths --------------------------------------------------------------------------------------------------------


@every_variant
@every_size
@pytest.mark.parametrize('training', [False, True])
def test_the_fast_path_is_taken_and_equals_plain_modules(
    variant: str, size: tuple[int, int], training: bool, taken: list, small_bands: None
) -> None:
    model, x = make_backbone(variant, drop_path_rate=0.5).train(training), images(size)
    num_blocks = sum(isinstance(module, TwinsBlock) for module in model.modules())
    results = []
    for enabled in (True, False):
        with mmtwins.fast_path(enabled):
            torch.manual_seed(0)
            grads = gradients(model, x)
            torch.manual_seed(0)
            with torch.no_grad():
                results.append((grads, model(x)))
        assert len(taken) == (2 * num_blocks if torch.backends.mkldnn.is_available() else 0)
    assert_near(*results)


# Hooks ----------------------------------------------------------------------------------------------------------------


@every_variant
@every_size
@pytest.mark.parametrize('training', [False, True])
def test_hooks_fire_once_and_see_whole_maps(
    variant: str, size: tuple[int, int], training: bool, small_bands: None
) -> None:
    model, x = make_backbone(variant).train(training), images(size)
    leaves = {name: module for name, module in model.named_modules() if not any(module.children())}

    def run(names: list[str]) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """What hooks on these layers keep of their inputs and outputs; none is overwritten later."""
        kept: dict[str, list] = {}
        handles = [
            leaves[name].register_forward_hook(
                lambda _, inputs, out, name=name: kept.setdefault(name, []).append(
                    ((inputs[0], out), (inputs[0].clone(), out.clone()))
                )
            )
            for name in names
        ]
        with torch.set_grad_enabled(training):
            maps = model(x)
            if training:
                loss_of(maps).backward()
        for handle in handles:
            handle.remove()
        assert_close(maps, reference, rtol=1e-4, atol=1e-4)
        for calls in kept.values():
            for now, then in calls:
                assert_close(now, then, rtol=0, atol=0)
        return {name: [now for now, _ in calls] for name, calls in kept.items()}

    with mmtwins.fast_path(False), torch.no_grad():
        reference = model(x)
    together = run(list(leaves))
    assert together.keys() == leaves.keys()
    assert all(len(calls) == 1 for calls in together.values())
    for name in leaves:
        if not name.startswith('blocks.0.'):
            continue  # one stage has every kind of layer
        alone = run([name])
        assert alone.keys() == {name}
        assert len(alone[name]) == 1
        assert_near(alone[name], together[name])
    for name, [(_, out)] in together.items():
        stage = int(name.split('.')[1])
        assert len(out) == len(x)
        if (
            not name.endswith(('kv', 'sr', 'depthwise', 'pointwise', 'attn.norm'))
            and 'patch_embeds' not in name
            and 'pos_block' not in name
        ):
            assert out.shape[1:3] == reference[stage].shape[2:], name


@both_families
def test_backward_hooks_fire_once(variant: str) -> None:
    model, x, fired = make_backbone(variant), images(), []
    for name, module in linear_layers(model).items():
        module.register_full_backward_hook(lambda *_, name=name: fired.append(name))
    loss_of(model(x)).backward()
    assert sorted(fired) == sorted(linear_layers(model))


@both_families
def test_hooks_of_all_modules_fire_for_each(variant: str) -> None:
    model, seen = make_backbone(variant), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        model(images())
    finally:
        handle.remove()
    called = [module for module in model.modules() if not isinstance(module, nn.ModuleList)]
    assert len(seen) == len(called)
    assert set(seen) == set(called)


# Other layers in place of those that are there ------------------------------------------------------------------------


@every_variant
def test_linear_layers_can_be_replaced_by_plain_ones(variant: str) -> None:
    model, x = make_backbone(variant), images()
    with torch.no_grad():
        before = model(x)
        for name, old in linear_layers(model).items():
            new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
            new.load_state_dict(old.state_dict())
            replace(model, name, new)
            assert_near(model(x), before)
            new.weight.mul_(1.5)
            assert (model(x)[-1] - before[-1]).abs().max() > 1e-3, name
            new.load_state_dict(old.state_dict())
    for name, gradient in gradients(model, x).items():
        assert gradient.any(), name


class LoRA(nn.Module):
    """A frozen linear layer and a trained product of two small matrices (arXiv:2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


@every_variant
def test_linear_layers_can_be_wrapped(variant: str) -> None:
    model, x = make_backbone(variant).requires_grad_(False), images()
    with torch.no_grad():
        before = model(x)
    for name, old in linear_layers(model).items():
        replace(model, name, LoRA(old))
    with torch.no_grad():
        assert_near(model(x), before)
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, LoRA)]:
        nn.init.normal_(module.up.weight)
        with torch.no_grad():
            assert (model(x)[-1] - before[-1]).abs().max() > 1e-3, name
            nn.init.normal_(module.up.weight, std=0.1)
            before = model(x)
    grads = gradients(model, x)
    assert (
        len(grads) == 2 * sum(isinstance(m, LoRA) for m in model.modules()) == 2 * 18 + 4 * variant.startswith('pcpvt')
    )
    assert all(gradient.any() for gradient in grads.values())


@both_families
def test_peft_adapts_every_linear_layer(variant: str) -> None:
    peft = pytest.importorskip('peft')
    model, x = make_backbone(variant), images()
    layers = linear_layers(model)
    assert {name.rpartition('.')[2] for name in layers} == {*LINEAR_LAYERS} - ({'qkv'} if variant == 'pcpvt' else set())
    with torch.no_grad():
        before = model(x)
    # Also convolutions are called proj, and one sequence of layers, in which peft sees no layer.
    config = peft.LoraConfig(target_modules=list(LINEAR_LAYERS), exclude_modules=r'(patch_embeds|pos_block)\..*', r=2)
    adapted = peft.get_peft_model(model, config)
    assert sum(isinstance(m, peft.tuners.lora.Linear) for m in adapted.modules()) == len(layers)
    assert_near([m.detach() for m in adapted(x)], list(before))
    for name, parameter in adapted.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(parameter, std=0.1)
    grads = gradients(adapted, x)
    assert len(grads) == 2 * len(layers)
    assert all(gradient.any() for gradient in grads.values())
    after = [m.detach() for m in adapted(x)]
    assert (after[-1] - before[-1]).abs().max() > 1e-3
    with torch.no_grad():
        assert_near(list(adapted.merge_and_unload()(x)), after)


@every_variant
@pytest.mark.parametrize('training', [False, True])
def test_another_activation_changes_the_output(variant: str, training: bool) -> None:
    model, x = make_backbone(variant).train(training), images()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GELU):
            with torch.set_grad_enabled(training):
                before = model(x)[-1]
                replace(model, name, nn.Tanh())
                assert (model(x)[-1] - before).abs().max() > 1e-3, name


# Transforms, tracing, exporting ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures('vmap_of_attention')
@every_variant
@every_size
def test_functional_transforms(variant: str, size: tuple[int, int]) -> None:
    model, x = make_backbone(variant), images(size)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss_of(functional_call(model, parameters, (image[None],)))

    assert_near(functional_call(model, parameters, (x,)), model(x))
    assert_near(grad(loss)(parameters, x[0]), gradients(model, x[:1]))
    per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(len(x)):
        assert_near({name: g[i] for name, g in per_sample.items()}, gradients(model, x[i : i + 1]))
    with torch.no_grad():
        assert_near(vmap(lambda image: model(image[None]))(x), tuple(m[:, None] for m in model(x)))


@pytest.mark.usefixtures('vmap_of_attention')
@both_families
def test_vmap_over_models(variant: str) -> None:
    models, x = [make_backbone(variant, seed) for seed in range(2)], images()
    stacked, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to('meta')
    out = vmap(lambda p, b: functional_call(skeleton, (p, b), (x,)))(stacked, buffers)
    for i, model in enumerate(models):
        assert_near([m[i] for m in out], list(model(x)))


@both_families
def test_jacobians(variant: str) -> None:
    model, x = make_backbone(variant), images((32, 36), batch=1).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return model(x)[-1].mean((2, 3))[0, :5]

    out = function(x)
    rows = torch.stack([torch.autograd.grad(row, x, retain_graph=True)[0] for row in out])
    assert rows.abs().max() > 1e-3
    assert_near(jacrev(function)(x), rows)
    # Batched gradients of a pass that the fast path computed.
    assert_near(torch.autograd.grad(out, x, torch.eye(5), retain_graph=True, is_grads_batched=True)[0], rows)
    assert_near(vmap(lambda v: torch.autograd.grad(out, x, v, retain_graph=True)[0])(torch.eye(5)), rows)


@both_families
def test_forward_mode_derivatives_work_where_those_of_attention_do(variant: str) -> None:
    model, x = make_backbone(variant).requires_grad_(False), images((32, 36), batch=1)
    tangent = torch.randn_like(x)

    def derivative(function: Callable[[Tensor], Tensor], x: Tensor, tangent: Tensor) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, tangent))).tangent

    with math_attention():
        given = derivative(lambda x: model(x)[-1], x, tangent)
        jacobian = jacrev(lambda x: model(x)[-1].sum())(x)
    assert_near(given.sum(), (jacobian * tangent).sum(), 1e-3)
    tokens = torch.randn(1, 1, 4, 8)
    try:
        derivative(lambda q: scaled_dot_product_attention(q, q, q), tokens, tokens)
    except NotImplementedError as error:
        with pytest.raises(NotImplementedError, match='does not support it'):
            derivative(lambda x: model(x)[-1], x, tangent)
        assert 'does not support it' in str(error)
    else:
        assert_near(derivative(lambda x: model(x)[-1], x, tangent), given)


@every_variant
@every_size
@pytest.mark.filterwarnings('ignore')
def test_a_trace_equals_the_model(variant: str, size: tuple[int, int]) -> None:
    model = make_backbone(variant)
    with torch.no_grad():
        traced = torch.jit.trace(model, images(size))
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        x = images(size) * 2 + 1
        for program in (traced, torch.jit.load(buffer)):
            assert_near(program(x), model(x))


@every_variant
@every_size
@pytest.mark.filterwarnings('ignore')
def test_the_older_onnx_exporter(variant: str, size: tuple[int, int], tmp_path: Path) -> None:
    onnx = pytest.importorskip('onnx', reason="needs onnx: pip install '.[export]'")
    runtime = pytest.importorskip('onnxruntime', reason="needs onnxruntime: pip install '.[export]'")
    model, path = make_backbone(variant), str(tmp_path / 'model.onnx')
    torch.onnx.export(model, (images(size),), path, **OLDER_EXPORTER, opset_version=17, input_names=['x'])
    onnx.checker.check_model(path)
    x = images(size) * 2 + 1
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    with torch.no_grad():
        assert_near([torch.from_numpy(m) for m in session.run(None, {'x': x.numpy()})], list(model(x)), 1e-3)


@pytest.mark.no_cover  # which slows the compiler's own Python down
@compiled_variants
def test_compiles_to_one_graph(variant: str) -> None:
    torch._dynamo.reset()
    model = make_backbone(variant)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for size in SIZES:
        assert_near(compiled(images(size)), model(images(size)))
    assert_near(gradients(compiled, images()), {f'_orig_mod.{n}': g for n, g in gradients(model, images()).items()})
    torch._dynamo.reset()


@pytest.mark.no_cover  # which slows the compiler's own Python down
@compiled_variants
@pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='needs a torch whose export takes Dim')
def test_exports_one_program_for_all_sizes(variant: str) -> None:
    model, dynamic = make_backbone(variant), torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            model, (images(),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},), strict=False
        ).module()
        for size, batch in [(SIZES[0], 1), (SIZES[1], 3), ((56, 84), 2), ((33, 64), 2)]:
            assert_near(program(images(size, batch)), model(images(size, batch)))


# Quantisation ---------------------------------------------------------------------------------------------------------


def assert_quantised(model: nn.Module, original: nn.Module) -> None:
    x = images()
    with torch.no_grad():
        for given, expected in zip(model(x), original(x), strict=True):
            error = (given - expected).norm() / expected.norm()
            assert 1e-5 < error < 0.1


@every_variant
@pytest.mark.filterwarnings('ignore')
def test_dynamic_quantisation_reaches_every_linear_layer(variant: str) -> None:
    engines = [engine for engine in torch.backends.quantized.supported_engines if engine != 'none']
    if not engines or not hasattr(torch.ao, 'quantization'):
        pytest.skip('this build of PyTorch does not quantise')
    original = make_backbone(variant)
    quantised = torch.ao.quantization.quantize_dynamic(original, {nn.Linear}, dtype=torch.qint8)
    kind = torch.ao.nn.quantized.dynamic.Linear
    names = {name for name, module in quantised.named_modules() if isinstance(module, kind)}
    assert names == linear_layers(original).keys()
    assert_quantised(quantised, original)


@every_variant
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('config', ['Int8WeightOnlyConfig', 'Int8DynamicActivationInt8WeightConfig'])
def test_torchao_quantises_every_linear_layer(variant: str, config: str) -> None:
    quantization = pytest.importorskip('torchao.quantization', reason='needs torchao')

    original = make_backbone(variant)
    quantised = copy.deepcopy(original)
    quantization.quantize_(quantised, getattr(quantization, config)())
    for name, module in linear_layers(quantised).items():
        assert type(module.weight) not in (nn.Parameter, Tensor), name
    assert len(linear_layers(quantised)) == len(linear_layers(original))
    assert_quantised(quantised, original)


# Copies and checkpoints -----------------------------------------------------------------------------------------------


@every_variant
def test_copies_compute_the_same(variant: str) -> None:
    model, x = make_backbone(variant), images()
    expected = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(buffer, **{'weights_only': False}),
    ):
        assert_close(other(x), expected, rtol=0, atol=0)
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}
        assert all(g.any() for g in gradients(other, x).values())


@every_variant
def test_a_model_without_memory_takes_weights_by_assignment(variant: str) -> None:
    source, x = make_backbone(variant), images()
    with torch.device('meta'):
        model = make_backbone(variant)
    assert all(p.is_meta for p in model.parameters())
    model.load_state_dict(source.state_dict(), assign=True)
    assert_close(model(x), source(x), rtol=0, atol=0)
    assert {p.data_ptr() for p in model.parameters()} == {p.data_ptr() for p in source.parameters()}


@both_families
@pytest.mark.parametrize('part', ['nothing', 'one stage', 'all but a bias', 'a part and a name of its own'])
def test_partial_loading_is_as_in_pytorch(variant: str, part: str) -> None:
    source, model = make_backbone(variant, 1).state_dict(), make_backbone(variant)
    kept = {
        'nothing': lambda name: False,
        'one stage': lambda name: name.split('.')[1] == '0',
        'all but a bias': lambda name: name != 'blocks.1.1.mlp.fc2.bias',
        'a part and a name of its own': lambda name: 'mlp' in name,
    }[part]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {name: value for name, value in source.items() if kept(name)}
    surplus = {'decoder.weight': torch.ones(2)} if 'own' in part else {}
    missing, unexpected = model.load_state_dict({**given, **surplus}, strict=False)
    assert missing == [name for name in source if name not in given]
    assert unexpected == list(surplus)
    assert_close(model.state_dict(), {**before, **given}, rtol=0, atol=0)
    with pytest.raises((RuntimeError, ValueError)):
        make_backbone(variant).load_state_dict({**given, **surplus}, strict=True)


@both_families
def test_a_weight_of_another_shape_is_refused(variant: str) -> None:
    model = make_backbone(variant)
    for strict, name in itertools.product((True, False), ('blocks.0.0.mlp.fc1.weight', 'patch_embeds.1.proj.bias')):
        with pytest.raises((RuntimeError, ValueError), match=name):
            model.load_state_dict({**model.state_dict(), name: torch.ones(3)}, strict=strict)


WRAPPERS = ('module.', '_orig_mod.', 'ema.', 'backbone.')


@both_families
@pytest.mark.parametrize('depth', [1, 2, 3])
def test_names_of_wrappers_are_recognised(variant: str, depth: int) -> None:
    weights = make_backbone(variant, 1).state_dict()
    model = make_backbone(variant)
    for wrappers in itertools.permutations(WRAPPERS, depth):
        prefix = ''.join(wrappers)
        nn.init.zeros_(model.blocks[0][0].mlp.fc1.weight)
        model.load_state_dict({prefix + name: value for name, value in weights.items()})
        assert_close(model.state_dict(), weights, rtol=0, atol=0, msg=lambda text, prefix=prefix: f'{prefix}: {text}')


def test_the_weights_of_a_compiled_model_load() -> None:
    source, model = make_backbone('svt-masked', 1), make_backbone('svt-masked')
    model.load_state_dict(torch.compile(source, backend='eager').state_dict())
    assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)
    other = torch.compile(make_backbone('svt-masked'), backend='eager')
    other.load_state_dict(torch.compile(source, backend='eager').state_dict())
    assert_close(other._orig_mod.state_dict(), source.state_dict(), rtol=0, atol=0)


# What a map depends on ------------------------------------------------------------------------------------------------


@every_variant
@every_size
def test_images_do_not_see_each_other(variant: str, size: tuple[int, int], small_bands: None) -> None:
    model, x = make_backbone(variant), images(size, batch=3)
    for with_gradient in (False, True):
        with torch.set_grad_enabled(with_gradient):
            together = model(x)
            for i in range(3):
                assert_near([m[i : i + 1] for m in together], list(model(x[i : i + 1])))
            assert_near([m[[2, 0, 1]] for m in together], list(model(x[[2, 0, 1]])))


@every_variant
@every_size
def test_evaluation_is_repeatable_to_the_bit(variant: str, size: tuple[int, int]) -> None:
    model, x = make_backbone(variant, drop_path_rate=0.5, drop_rate=0.5, attn_drop_rate=0.5), images(size)
    with torch.no_grad():
        assert_close(model(x), model(x), rtol=0, atol=0)
        assert not torch.equal(model.train()(x)[-1], model(x)[-1])


@every_variant
@every_size
def test_layouts_of_the_input(variant: str, size: tuple[int, int]) -> None:
    model, x = make_backbone(variant), images(size)
    expected, height, width = model(x), *size
    wider = torch.zeros(2, 5, height + 3, 2 * width)
    wider[:, 1:4, 2:-1, ::2] = x
    for same in (
        x.to(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        wider[:, 1:4, 2:-1, ::2],
    ):
        assert torch.equal(same, x)
        assert same.stride() != x.stride()
        assert_near(model(same), expected)
        assert_near(gradients(model, same), gradients(model, x))
    grey, one = x[:, :1].expand(-1, 3, -1, -1), x[:1].expand(3, -1, -1, -1)
    for expanded in (grey, one):
        assert 0 in expanded.stride()
        assert_near(model(expanded), model(expanded.contiguous()))
    assert_near(copy.deepcopy(model).to(memory_format=torch.channels_last)(x), expected)
    assert all(m.is_contiguous() for m in expected)


@every_variant
@every_size
def test_an_empty_batch_gives_empty_maps(variant: str, size: tuple[int, int]) -> None:
    model, x = make_backbone(variant), images(size)
    with torch.no_grad():
        shapes = [(0, *m.shape[1:]) for m in model(x)]
        assert [tuple(m.shape) for m in model(x[:0])] == shapes
    maps = model.train()(x[:0])
    assert [tuple(m.shape) for m in maps] == shapes
    sum(m.sum() for m in maps).backward()
    assert all(not p.grad.any() for p in model.parameters())


# Precision and gradients ----------------------------------------------------------------------------------------------


@every_variant
@every_size
def test_float64(variant: str, size: tuple[int, int]) -> None:
    model, x = make_backbone(variant), images(size)
    exact = copy.deepcopy(model).double()
    maps = exact(x.double())
    assert {m.dtype for m in maps} == {torch.float64}
    assert_near(model(x), tuple(m.float() for m in maps))


def make_attention(kind: str) -> nn.Module:
    torch.manual_seed(0)
    attn = dict(
        masked=lambda: LocallyGroupedSelfAttention(4, 2, 2, 'masked'),
        zero=lambda: LocallyGroupedSelfAttention(4, 2, 2, 'zero'),
        meituan=lambda: LocallyGroupedSelfAttention(4, 2, 2, 'meituan'),
        gsa=lambda: GlobalSubsampledAttention(4, 2, 2),
        mha=lambda: GlobalSubsampledAttention(4, 2, 1),
        separable=lambda: GlobalSubsampledAttention(4, 2, (1, 2), subsampling='separable'),
        pool=lambda: GlobalSubsampledAttention(4, 2, (2, 1), subsampling='pool'),
    )[kind]()
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attn.double()


@pytest.mark.parametrize('size', [(2, 3), (3, 3)])
@pytest.mark.parametrize('kind', ['masked', 'zero', 'meituan', 'gsa', 'mha', 'separable', 'pool'])
@pytest.mark.parametrize('is_fast', [False, True])
def test_derivatives_of_attention(kind: str, size: tuple[int, int], is_fast: bool) -> None:
    attn = make_attention(kind)
    names, parameters = zip(*attn.named_parameters())
    fast = fast_ops.attend_globally if isinstance(attn, GlobalSubsampledAttention) else fast_ops.attend_locally

    def function(x: Tensor, *values: Tensor) -> Tensor:
        if not is_fast:
            return functional_call(attn, dict(zip(names, values)), (x,))
        with torch.nn.utils.stateless._reparametrize_module(attn, dict(zip(names, values))):
            return fast(attn, x)

    x = torch.randn(1, *size, 4, dtype=torch.float64, requires_grad=True)
    assert_close(fast(attn, x), attn(x))
    inputs = (x, *(p.detach().requires_grad_() for p in parameters))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    with math_attention():  # the fused kernel has no second derivative
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize('saves_memory', [False, True])
def test_derivatives_of_the_mlp(saves_memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_ops, 'BAND_ELEMENTS', 16)
    torch.manual_seed(0)
    mlp, x = Mlp(2, 4, 0.0).double(), torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for function in (mlp, lambda x: fast_ops.run_mlp(mlp, x, saves_memory)):
        assert_close(function(x), mlp(x))
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)


@every_variant
@every_size
@pytest.mark.parametrize('with_cp', [False, True])
def test_every_parameter_gets_a_gradient(variant: str, size: tuple[int, int], with_cp: bool) -> None:
    model = make_backbone(variant, with_cp=with_cp).train()
    loss_of(model(images(size))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_variant
@every_size
def test_checkpointing_changes_nothing(variant: str, size: tuple[int, int], small_bands: None) -> None:
    results = []
    for with_cp in (False, True):
        model = make_backbone(variant, with_cp=with_cp, drop_path_rate=0.5).train()
        torch.manual_seed(0)
        maps = model(images(size))
        loss_of(maps).backward()
        results.append((list(maps), {name: p.grad for name, p in model.named_parameters()}))
    assert_near(*results)


@every_variant
@every_size
def test_autocast_to_bfloat16(variant: str, size: tuple[int, int], taken: list) -> None:
    model, x = make_backbone(variant), images(size)
    num_blocks = sum(isinstance(module, TwinsBlock) for module in model.modules())
    with mmtwins.fast_path(False):
        expected, expected_grads = model(x), gradients(model, x)
    for enabled in (True, False):
        taken.clear()
        with mmtwins.fast_path(enabled), torch.autocast('cpu', torch.bfloat16):
            maps = model(x)
            loss = loss_of(maps)
        assert len(taken) == (num_blocks if enabled and torch.backends.mkldnn.is_available() else 0)
        for given, wanted in zip(maps, expected, strict=True):
            assert 1e-4 < (given.float() - wanted).norm() / wanted.norm() < 0.05
        grads = dict(zip(expected_grads, torch.autograd.grad(loss, list(model.parameters()))))
        assert all(grad.dtype == torch.float32 for grad in grads.values())
        whole = [torch.cat([g.flatten() for g in some.values()]) for some in (grads, expected_grads)]
        assert 1e-4 < (whole[0] - whole[1]).norm() / whole[1].norm() < 0.05


@both_families
def test_autocast_leaves_a_model_in_bfloat16_its_fast_path(variant: str, taken: list) -> None:
    model, x = make_backbone(variant).bfloat16(), images().bfloat16()
    with torch.no_grad():
        model(x)
        num_taken = len(taken)
        with torch.autocast('cpu', torch.bfloat16):
            model(x)
    assert len(taken) == 2 * num_taken and bool(num_taken) == torch.backends.mkldnn.is_available()


@every_variant
def test_tensors_saved_for_the_gradient_can_be_moved(variant: str, taken: list) -> None:
    model, x, packed = make_backbone(variant), images(), []
    expected = gradients(model, x)

    def pack(tensor: Tensor) -> bytes:
        packed.append(tensor.numel())
        return pickle.dumps(tensor.detach())

    with torch.autograd.graph.saved_tensors_hooks(pack, pickle.loads):
        assert_close(gradients(model, x), expected, rtol=0, atol=0)
    assert len(packed) > 20
    with torch.autograd.graph.save_on_cpu():
        assert_close(gradients(model, x), expected, rtol=0, atol=0)
    assert taken or not torch.backends.mkldnn.is_available()


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@every_variant
@every_size
def test_deterministic_algorithms(variant: str, size: tuple[int, int], deterministic: None) -> None:
    model, x = make_backbone(variant, with_cp=True).train(), images(size)
    assert_close(gradients(model, x), gradients(model, x), rtol=0, atol=0)


@every_variant
@every_size
def test_counting_sees_the_same_with_the_fast_path(variant: str, size: tuple[int, int], small_bands: None) -> None:
    model, x = make_backbone(variant), images(size, batch=1)
    counts = []
    for enabled in (True, False):
        with mmtwins.fast_path(enabled), FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        with mmtwins.fast_path(enabled):
            costs = count(model, *size).costs
        counts.append((counter.get_total_flops(), counter.get_flop_counts(), costs))
    assert counts[0] == counts[1]
    flops, _, costs = counts[0]
    assert flops > 0
    assert all(costs[name].macs > 0 for name in linear_layers(model))


# Several processes ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def distributed_results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], str]:
    """What ``fsdp_cases.py`` says of each case, run once in two processes."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip('needs a PyTorch with gloo')
    folder = tmp_path_factory.mktemp('distributed')
    script = Path(__file__).with_name('fsdp_cases.py')
    tests = [item for item in request.session.items if 'distributed_results' in item.fixturenames]
    cases = json.dumps([(item.callspec.params['variant'], item.callspec.params['case']) for item in tests])
    commands = [
        [sys.executable, script, str(rank), folder / 'store', folder / f'{rank}.txt', cases]
        for rank in range(WORLD_SIZE)
    ]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    lines = (folder / '0.txt').read_text().splitlines() if (folder / '0.txt').exists() else []
    results = {(variant, name): result for variant, name, result in map(json.loads, lines)}
    codes = [process.returncode for process in processes]
    if any(codes):
        results['', ''] = f'the processes ended with {codes} after {len(results)} cases: {errors[0][-1000:]}'
    return results


@pytest.mark.slow  # tests/engine/test_fsdp.py and tests/faults/test_ranks.py are quicker
@pytest.mark.parametrize('variant', ['svt-meituan', 'pcpvt'])
@pytest.mark.parametrize('case', CASES)
def test_data_parallel_training(variant: str, case: str, distributed_results: dict[tuple[str, str], str]) -> None:
    if case.startswith('fully_shard') and fully_shard is None:
        pytest.skip('fully_shard needs torch 2.6 or newer')
    result = distributed_results.get((variant, case)) or distributed_results['', '']
    if result.startswith('PyTorch fails'):
        warnings.warn(result, stacklevel=1)
        pytest.skip(result)
    assert result == 'ok', result
