"""Public Twins checkpoints converted to native names and back, and the tool that does so."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden_input, golden_positions, golden_state_dict, load_golden
from tiny import LAST_NORM_ONLY, TINY, Dense, assert_equal, make_tiny, random_weights, tiny_classifier
from torch import Tensor

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.architectures import ARCHITECTURES, PCPVT_ARCHITECTURES
from mmtwins.models.backbone import TwinsBackbone
from mmtwins.weights.converting import convert, from_native, to_native, trace
from mmtwins.weights.formats import FORMATS, recognise
from mmtwins.weights.loading import read_checkpoint


def assert_features(maps: tuple[Tensor, ...], stages: list[dict], tolerance: float) -> None:
    for actual, expected in zip(maps, stages, strict=True):
        assert list(actual.shape) == expected['shape']
        sampled = actual.view(-1)[golden_positions(actual.numel())].numpy()
        assert np.abs(sampled - np.array(expected['values'])).max() / expected['std'] < tolerance


@pytest.mark.parametrize(
    ('name', 'norms', 'padding', 'tolerance'),
    [('timm_svt_small', False, 'zero', 2e-5), ('mmpretrain_svt_small', LAST_NORM_ONLY, 'meituan', 1e-4)],
)
def test_features_equal_those_of_other_libraries(
    name: str, norms: bool | tuple, padding: str, tolerance: float
) -> None:
    model = TwinsSVTBackbone(norm_after_stage=norms, window_padding=padding).eval()
    result = model.load_state_dict(golden_state_dict(name), strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    for case in load_golden(name)['cases']:
        with torch.no_grad():
            maps = model(torch.from_numpy(golden_input(case['height'], case['width'])))
        assert_features(maps, case['stages'], tolerance)


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
@pytest.mark.parametrize('qkv_bias', [True, False])
@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_features_equal_those_of_mmseg(family: type[TwinsBackbone], qkv_bias: bool, prefix: str) -> None:
    backbones = pytest.importorskip('mmseg.models.backbones')
    kwargs = {k: list(v) for k, v in TINY.items()} | dict(qkv_bias=qkv_bias, sr_ratios=[8, 4, 2, 1], drop_path_rate=0.2)
    if family is TwinsSVTBackbone:
        theirs = backbones.SVT(**kwargs, norm_after_stage=True, windiow_sizes=[7, 7, 7, 7]).eval()
        ours = make_tiny(qkv_bias=qkv_bias, window_padding='meituan', patch_padding='corner')
    else:
        theirs = backbones.PCPVT(**kwargs).eval()
        ours = make_tiny(family, qkv_bias=qkv_bias, patch_padding='corner')
    weights = random_weights(theirs)
    weights = {k: v / max(1, v[0].numel()) ** 0.5 if v.dim() > 1 else 0.1 * v for k, v in weights.items()}
    weights |= {k: 1 + v for k, v in weights.items() if 'norm' in k and k.endswith('weight')}
    theirs.load_state_dict(weights)
    given = {prefix + k: v for k, v in weights.items()} | ({'decode_head.a': torch.zeros(1)} if prefix else {})
    assert not ours.load_state_dict({'state_dict': given}, strict=False).missing_keys
    x = torch.from_numpy(golden_input(101, 77))
    with torch.no_grad():
        for actual, expected in zip(ours(x), theirs(x), strict=True):
            assert (actual - expected).abs().max() < 1e-4 * expected.std()
    if qkv_bias:
        assert_equal(from_native(to_native(weights), 'mmseg'), weights)


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize(
    ('family', 'arch'),
    [
        pytest.param(family, arch, marks=() if arch == 'small' else pytest.mark.slow)
        for family, names in ((TwinsSVTBackbone, ARCHITECTURES), (TwinsPCPVTBackbone, PCPVT_ARCHITECTURES))
        for arch in names
    ],
)
def test_round_trip_of_every_architecture_is_bit_identical(family: type, arch: str, fmt: str) -> None:
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in family(arch=arch).state_dict().items()}
    # Numbers that tell every element of a tensor's first axis apart are cheaper than random ones and see any swap.
    native = {
        name: torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1)).expand(shape) + i
        for i, (name, shape) in enumerate(shapes.items())
    }
    foreign = from_native(native, fmt)
    assert recognise(foreign) == (fmt if fmt in ('mmseg', 'mmpretrain') else 'native', '')
    assert_equal(to_native(foreign), native)


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('norms', [True, False, LAST_NORM_ONLY])
@pytest.mark.parametrize('whole', [True, False])
def test_round_trip_with_any_norms_and_heads_is_bit_identical(norms: bool | tuple, whole: bool, fmt: str) -> None:
    native = random_weights(make_tiny(norm_after_stage=norms))
    if whole:
        heads = {'decode_head.norm.weight': torch.randn(3), 'head.layers.0.0.attn.weight': torch.randn(3)}
        heads['decode_head.bn.num_batches_tracked'] = torch.tensor(3)  # a scalar
        native = {f'backbone.{name}': value for name, value in native.items()} | heads
    foreign = from_native(native, fmt)
    if norms == LAST_NORM_ONLY and not whole and fmt == 'timm':
        assert 'norm.weight' in foreign
        assert not any(name.startswith('norm_list') for name in foreign)
    assert_equal(to_native(foreign), native)


@pytest.mark.parametrize('fmt', FORMATS)
def test_round_trip_of_a_classifier_is_bit_identical(fmt: str) -> None:
    native = tiny_classifier()
    foreign = from_native(native, fmt)
    if fmt == 'mmpretrain':
        assert foreign.keys() >= {'head.fc.weight', 'head.fc.bias', 'backbone.norm_after_stage3.weight'}
    assert_equal(to_native(foreign), native)
    if fmt == 'mmpretrain':  # a whole model with a head of that name
        whole = to_native({**foreign, 'neck.a': torch.zeros(1)})
        assert whole.keys() >= {'neck.a', 'head.fc.weight', 'backbone.blocks.0.0.norm1.weight'}
    both = {**native, **random_weights(make_tiny())}  # as the public segmentation code keeps them
    assert_equal(to_native(from_native(both, fmt)), both)


def test_converting_to_mmpretrain_gives_its_own_names() -> None:
    shapes = load_golden('mmpretrain_svt_small')['parameters']
    with torch.device('meta'):
        native = TwinsSVTBackbone(norm_after_stage=LAST_NORM_ONLY).state_dict()
    assert {name: list(value.shape) for name, value in from_native(native, 'mmpretrain').items()} == shapes


def test_converting_to_mmseg_gives_its_own_names() -> None:
    wanted = {
        'patch_embeds.1.projection.weight': ['patch_embeds.1.proj.weight'],
        'patch_embeds.1.norm.bias': ['patch_embeds.1.norm.bias'],
        'position_encodings.2.proj.bias': ['pos_block.2.proj.0.bias'],
        'layers.0.0.norm1.weight': ['blocks.0.0.norm1.weight'],
        'layers.0.0.attn.qkv.weight': ['blocks.0.0.attn.qkv.weight'],
        'layers.0.0.attn.proj.bias': ['blocks.0.0.attn.proj.bias'],
        'layers.0.0.ffn.layers.0.0.weight': ['blocks.0.0.mlp.fc1.weight'],
        'layers.0.0.ffn.layers.1.bias': ['blocks.0.0.mlp.fc2.bias'],
        'layers.0.1.attn.attn.in_proj_weight': ['blocks.0.1.attn.q.weight', 'blocks.0.1.attn.kv.weight'],
        'layers.0.1.attn.attn.in_proj_bias': ['blocks.0.1.attn.q.bias', 'blocks.0.1.attn.kv.bias'],
        'layers.0.1.attn.attn.out_proj.weight': ['blocks.0.1.attn.proj.weight'],
        'layers.0.1.attn.sr.weight': ['blocks.0.1.attn.sr.weight'],
        'norm_list.3.bias': ['norm_list.3.bias'],
    }
    origins = trace(random_weights(make_tiny()), 'mmseg')
    assert {name: origins.get(name) for name in wanted} == wanted


def test_what_no_format_holds_is_refused() -> None:
    native = random_weights(make_tiny(TwinsPCPVTBackbone, qkv_bias=False))
    with pytest.raises(
        ValueError, match=r'blocks\.0\.0\.attn\.proj\.bias: mmseg.*no output bias where qkv_bias is False'
    ):
        from_native(native, 'mmseg')
    one_number = {name: torch.zeros_like(v) if name.endswith('.proj.bias') else v for name, v in native.items()}
    assert 'layers.3.1.attn.attn.out_proj.bias' not in from_native(one_number, 'mmseg')
    one_number['blocks.3.1.attn.proj.bias'][7] = 1
    with pytest.raises(ValueError, match=r'blocks\.3\.1\.attn\.proj\.bias: mmseg'):
        from_native(one_number, 'mmseg')
    with pytest.raises(ValueError, match="format 'caffe' is unknown: choose one of native, timm, mmseg, mmpretrain"):
        from_native(native, 'caffe')
    with pytest.raises(ValueError, match='the names are those of mmpretrain'):
        from_native(from_native(native, 'mmpretrain'), 'mmseg')
    doubled = {f'{name}.{k}': v for name in ('student', 'teacher') for k, v in native.items()}
    with pytest.raises(ValueError, match=r"more than one backbone.*'student\. \(native\)', 'teacher\. \(native\)'"):
        to_native(doubled)


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_the_tool_converts_there_and_back(fmt: str, suffix: str, call_tool, tmp_path: Path) -> None:
    source = tiny_classifier()
    torch.save({'model': source}, tmp_path / 'source.pth')
    there, back = tmp_path / 'new' / f'there.{suffix}', tmp_path / 'back.pth'
    result = call_tool('convert_checkpoint.py', tmp_path / 'source.pth', there, '--to', fmt)
    assert result.returncode == 0, result.stderr
    assert f'{len(source)} tensors read, ' in result.stdout
    assert '0 dropped' in result.stdout
    if fmt == 'mmseg':
        rows = [[cell.strip() for cell in re.split('[│|]', line)][1:4] for line in result.stdout.splitlines()]
        assert [
            '4',
            'blocks.*.*.attn.q.weight + blocks.*.*.attn.kv.weight',
            'layers.*.*.attn.attn.in_proj_weight',
        ] in rows
        assert ['9', 'blocks.*.*.mlp.fc1.bias', 'layers.*.*.ffn.layers.*.*.bias'] in rows
    assert_equal(read_checkpoint(str(there)), from_native(source, fmt))
    assert call_tool('convert_checkpoint.py', there, back, '--to', 'native').returncode == 0
    assert_equal(read_checkpoint(str(back)), source)


def test_the_tool_gives_timm_the_backbone_of_a_whole_model(call_tool, tmp_path: Path) -> None:
    source = random_weights(Dense())
    torch.save({'state_dict': from_native(source, 'mmseg')}, tmp_path / 'whole.pth')
    result = call_tool('convert_checkpoint.py', tmp_path / 'whole.pth', tmp_path / 'a.safetensors', '--to', 'timm')
    assert result.returncode == 0, result.stderr
    assert 'decode_head.conv_seg.weight' in result.stdout
    assert result.stdout.strip().endswith('4 dropped')
    backbone = {k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')}
    assert_equal(read_checkpoint(str(tmp_path / 'a.safetensors')), backbone)


@pytest.mark.parametrize('fmt', FORMATS)
def test_timm_gets_the_backbone_of_a_whole_model_and_others_all(fmt: str) -> None:
    source = random_weights(Dense())
    backbone = {k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')}
    foreign = from_native(source, fmt)
    assert_equal(convert(foreign, 'timm'), backbone)
    assert_equal(convert(foreign, 'native'), source)
    assert trace(foreign, 'timm').keys() == backbone.keys()
    with pytest.raises(ValueError, match="format 'caffe' is unknown"):
        convert(foreign, 'caffe')


@pytest.mark.parametrize(
    ('src', 'dst', 'message'),
    [
        ('absent.pth', 'a.pth', 'absent.pth does not exist'),
        ('other.pth', 'a.pth', 'no Twins backbone is in the checkpoint, which has conv1.weight (1,)'),
        ('other.pth', 'a.onnx', 'a.onnx: give a file that ends in .pth or .safetensors'),
    ],
)
def test_the_tool_refuses_in_one_line(src: str, dst: str, message: str, call_tool, tmp_path: Path) -> None:
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    result = call_tool('convert_checkpoint.py', tmp_path / src, tmp_path / dst, '--to', 'timm')
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert message in result.stderr
    assert not (tmp_path / dst).exists()


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_the_order_of_names_does_not_matter(family: type[TwinsBackbone], fmt: str) -> None:
    # .safetensors files have their names sorted: kv before q.
    native = random_weights(make_tiny(family))
    foreign = from_native(native, fmt)
    assert_equal(from_native(dict(sorted(native.items())), fmt), foreign)
    assert_equal(from_native(dict(reversed(native.items())), fmt), foreign)
    assert_equal(to_native(dict(sorted(foreign.items()))), native)


@pytest.mark.parametrize('shape', [(25, 8), (23, 8), ()])
def test_what_does_not_divide_into_q_k_and_v_is_refused(shape: tuple[int, ...]) -> None:
    foreign = from_native(random_weights(make_tiny()), 'mmseg')
    foreign['layers.0.1.attn.attn.in_proj_weight'] = torch.zeros(shape)
    message = re.escape(f'layers.0.1.attn.attn.in_proj_weight is {shape}, which does not divide into q, k and v')
    with pytest.raises(ValueError, match=message):
        to_native(foreign)


def test_half_a_pair_is_refused() -> None:
    native = random_weights(make_tiny())
    del native['blocks.0.1.attn.kv.weight']
    with pytest.raises(ValueError, match=r'blocks\.0\.1\.attn\.kv\.weight is missing beside'):
        from_native(native, 'mmseg')


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('qkv_bias', [True, False])
def test_every_tensor_is_traced_to_its_origin(qkv_bias: bool, fmt: str) -> None:
    native = random_weights(make_tiny(qkv_bias=qkv_bias))
    for name in native:
        if name.endswith('.attn.proj.bias'):
            native[name].zero_()  # a fresh model's, which mmseg has no place for where qkv_bias is False
    for source in (native, from_native(native, fmt)):
        origins = trace(source, 'native')
        assert origins.keys() == native.keys()
        assert {name for names in origins.values() for name in names} == source.keys()
    assert all(origins.values()) or (fmt == 'mmseg' and not qkv_bias)
    unused = native.keys() - {name for names in trace(native, 'mmseg').values() for name in names}
    gsa = {name.removesuffix('q.weight') for name in native if name.endswith('.attn.q.weight')}
    assert unused == (set() if qkv_bias else {f'{block}proj.bias' for block in gsa})


def test_the_tool_drops_no_zero_biases_between_native_names(call_tool, tmp_path: Path) -> None:
    torch.save(make_tiny().state_dict(), tmp_path / 'fresh.pth')
    result = call_tool('convert_checkpoint.py', tmp_path / 'fresh.pth', tmp_path / 'a.pth', '--to', 'native')
    assert result.stdout.strip().endswith(' 0 dropped'), result.stdout + result.stderr
    assert 'zeros' not in result.stdout


def test_the_tool_does_not_replace_what_it_reads(call_tool, tmp_path: Path) -> None:
    torch.save(make_tiny().state_dict(), tmp_path / 'a.pth')
    (tmp_path / 'link.pth').symlink_to(tmp_path / 'a.pth')
    before = (tmp_path / 'a.pth').read_bytes()
    for name in ('a.pth', 'link.pth'):
        result = call_tool('convert_checkpoint.py', tmp_path / 'a.pth', tmp_path / name, '--to', 'mmseg')
        assert result.returncode == 1
        assert f'error: {tmp_path}/{name} is the checkpoint to read: give another file to write' in result.stderr
    assert (tmp_path / 'a.pth').read_bytes() == before
