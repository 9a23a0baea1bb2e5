"""torch.compile, torch.export and ONNX: one graph for all sizes, equal results."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.export import AreaPool, ExportableSegmentor, build_exportable, describe, export_onnx, verify_onnx

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
CONFIGS = Path(__file__).parents[1] / 'configs' / 'toy'
SEGMENTOR = CONFIGS / 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'
needs_dynamo = pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='needs a torch whose export takes Dim')
WINDOW_PADDINGS = ['masked', 'zero', 'meituan']


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


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.parametrize(
    'kwargs',
    [
        dict(with_cp=True, **ONE_STAGE),
        pytest.param(TWO_STAGES, marks=pytest.mark.slow),
        pytest.param(TWO_STAGES_OF_PCPVT, marks=pytest.mark.slow),
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


@pytest.mark.no_cover  # which slows the compiler's own Python down
def test_the_default_compiler_gives_equal_results() -> None:
    model = make_tiny(**ONE_STAGE)
    assert_equal_in_training(torch.compile(model, fullgraph=True), model, torch.randn(1, 3, 72, 100))


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


@pytest.mark.parametrize('output_size', [1, 2, 3, 6, (2, 5)])
@pytest.mark.parametrize('size', [(6, 6), (7, 16), (3, 2)])
def test_area_pool_equals_adaptive_average_pooling(output_size: int | tuple[int, int], size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    assert_close(AreaPool(output_size)(x), nn.AdaptiveAvgPool2d(output_size)(x))


def make_segmentor_config() -> Config:
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(SEGMENTOR)
    cfg.model.backbone.arch.update(TINY, _delete_=False)
    cfg.model.backbone.arch.pop('_delete_')
    cfg.model.decode_head.update(in_channels=list(TINY['embed_dims']), channels=16)
    cfg.model.auxiliary_head.update(in_channels=TINY['embed_dims'][2], channels=16)
    return cfg


def test_the_exportable_segmentor_equals_the_segmentor() -> None:
    cfg = make_segmentor_config()
    exportable = build_exportable(cfg, None)
    assert isinstance(exportable, ExportableSegmentor)
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in exportable.modules())
    from mmengine.registry import MODELS

    model = MODELS.build({'_scope_': 'mmseg', **cfg.model}).eval()
    model.backbone.load_state_dict(exportable.backbone.state_dict())
    model.decode_head.load_state_dict(exportable.decode_head.state_dict())
    x = torch.randn(1, 3, 96, 160)
    metainfo = [dict(img_shape=(96, 160), ori_shape=(96, 160))]
    with torch.no_grad():
        assert_close(exportable(x), model.whole_inference(x, metainfo), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            (CONFIGS / 'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py', 'none', 'x.onnx'),
            'is no segmentor: export',
        ),
        ((SEGMENTOR, 'missing.pth', 'x.onnx'), 'checkpoint missing.pth does not exist'),
    ],
)
def test_wrong_arguments_end_in_one_line(
    call_tool: Callable[..., subprocess.CompletedProcess], arguments: Sequence[object], message: str
) -> None:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    result = call_tool('export_onnx.py', *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert 'Traceback' not in result.stderr


def require_onnx() -> None:
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        pytest.importorskip(module, reason=f"needs {module}: pip install '.[export]'")


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.parametrize(
    'window_padding', ['masked', *(pytest.param(padding, marks=pytest.mark.slow) for padding in WINDOW_PADDINGS[1:])]
)
def test_onnx_of_a_backbone_takes_all_sizes(window_padding: str, tmp_path: Path) -> None:
    require_onnx()
    model = make_tiny(**ONE_STAGE, window_padding=window_padding).eval()
    export_onnx(model, tmp_path / 'model.onnx', 72, 100)
    shapes = [(1, 3, 224, 224), (1, 3, 224, 250), (2, 3, 101, 77), (1, 3, 32, 32)]
    assert [shape for shape, _ in verify_onnx(model, tmp_path / 'model.onnx', shapes)] == shapes
    with pytest.raises(ValueError, match='differs by'):
        list(verify_onnx(make_tiny(**ONE_STAGE, norm_after_stage=False).eval(), tmp_path / 'model.onnx', shapes))


def test_onnx_of_a_whole_segmentor(
    call_tool: Callable[..., subprocess.CompletedProcess],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    require_onnx()
    cfg = make_segmentor_config()
    cfg.dump(tmp_path / 'config.py')
    from mmengine.registry import MODELS

    model = MODELS.build({'_scope_': 'mmseg', **cfg.model})
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / 'model.pth'))
    arguments = (tmp_path / 'config.py', tmp_path / 'model.pth', tmp_path / 'model.onnx')
    result = call_tool('export_onnx.py', *arguments, '--dynamic', '--verify', '--size', '96x128')
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('largest relative difference') == 4
    assert '2 x 3 x 250 x 333' in result.stdout
    assert not [w for w in recwarn if 'training mode' in str(w.message) or 'LeafSpec' in str(w.message)]
    assert 'torchvision' not in result.stderr + caplog.text
    assert_says_what_it_takes_and_gives(tmp_path / 'model.onnx', cfg, tmp_path / 'model.pth')


def assert_says_what_it_takes_and_gives(path: Path, cfg: Config, checkpoint: Path) -> None:
    import onnx

    written = onnx.load(path)
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*written.graph.input, *written.graph.output)
    }
    classes = cfg.model.decode_head.num_classes
    assert axes == {
        'images': ['batch', 3, 'height', 'width'],
        'logits': ['batch', classes, 'height', 'width'],
    }
    found = {entry.key: entry.value for entry in written.metadata_props}
    assert len(json.loads(found['classes'])) == classes and json.loads(found['classes'])[0] == 'grass'
    assert json.loads(found['mean']) == list(cfg.model.data_preprocessor.mean)
    assert json.loads(found['std']) == list(cfg.model.data_preprocessor.std)
    assert found['channel_order'] == 'RGB'
    assert found['checkpoint'] == str(checkpoint) and found['config'] == 'config.py'


def test_a_segmentor_without_its_heads_is_refused(tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    cfg = Config.fromfile(SEGMENTOR)
    backbone = build_exportable(cfg, None, backbone_only=True)
    path = tmp_path / 'bare.pth'
    save_checkpoint({'state_dict': backbone.state_dict()}, str(path))
    build_exportable(cfg, str(path), backbone_only=True)
    with pytest.raises(ValueError, match=r'bare\.pth: decode_head: not in the checkpoint: give that of a whole model'):
        build_exportable(cfg, str(path), backbone_only=False)


@pytest.mark.parametrize('meta', [dict(dataset_meta=dict(classes=('a', 'b'))), dict(CLASSES=('a', 'b'))])
def test_classes_of_a_checkpoint_go_before_those_of_the_config(meta: dict, tmp_path: Path) -> None:
    cfg = make_segmentor_config()
    weights = build_exportable(cfg, None).state_dict()
    save_checkpoint(dict(state_dict=weights, meta=meta), str(tmp_path / 'model.pth'))
    model = build_exportable(cfg, str(tmp_path / 'model.pth'))
    assert json.loads(describe(cfg, model, 'model.pth')['classes']) == ['a', 'b']


def test_a_backbone_has_no_classes() -> None:
    found = describe(Config(dict(model=dict())), make_tiny(), None)
    assert found == dict(channel_order='BGR', checkpoint='none', config='')


def test_without_onnx_it_is_said_how_to_get_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"onnx, onnxscript is not installed: .*'\.\[export\]'"):
        export_onnx(make_tiny(), tmp_path / 'model.onnx', 64, 64)
