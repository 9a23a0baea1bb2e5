"""Formats of public Twins checkpoints: recognised, converted both ways, fitted to a backbone or a whole model."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import golden_input, golden_positions, golden_state_dict, load_golden
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.backbone import ARCHITECTURES, PCPVT_ARCHITECTURES, TwinsBackbone
from mmtwins.checkpoint import FORMATS, fit_backbone, fit_model, from_native, recognise, to_native, unwrap
from mmtwins.loading import read_checkpoint

TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 2, 3, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
LAST_NORM_ONLY = (False, False, False, True)


def make_tiny(family: type[TwinsBackbone] = TwinsSVTBackbone, **kwargs) -> TwinsBackbone:
    return family(**{'arch': TINY, **kwargs}).eval()


def random_weights(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.randn(value.shape) for name, value in model.state_dict().items()}


def assert_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def tiny_classifier() -> dict[str, Tensor]:
    """As the public code saves an ImageNet classifier."""
    norm = {'norm.weight': torch.randn(32), 'norm.bias': torch.randn(32)}
    head = {'head.weight': torch.randn(10, 32), 'head.bias': torch.randn(10)}
    return {**random_weights(make_tiny(norm_after_stage=False)), **norm, **head}


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
    [(TwinsSVTBackbone, a) for a in ARCHITECTURES] + [(TwinsPCPVTBackbone, a) for a in PCPVT_ARCHITECTURES],
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
    both = {**native, **random_weights(make_tiny())}  # as the public segmentation code keeps them
    assert_equal(to_native(from_native(both, fmt)), both)


def test_converting_to_mmpretrain_gives_its_own_names() -> None:
    shapes = load_golden('mmpretrain_svt_small')['parameters']
    with torch.device('meta'):
        native = TwinsSVTBackbone(norm_after_stage=LAST_NORM_ONLY).state_dict()
    assert {name: list(value.shape) for name, value in from_native(native, 'mmpretrain').items()} == shapes


def test_what_no_format_holds_is_refused() -> None:
    native = random_weights(make_tiny(TwinsPCPVTBackbone, qkv_bias=False))
    with pytest.raises(
        ValueError, match=r'blocks\.0\.0\.attn\.proj\.bias: mmseg.*no output bias where qkv_bias is False'
    ):
        from_native(native, 'mmseg')
    with pytest.raises(ValueError, match="format 'caffe' is unknown: choose one of native, timm, mmseg, mmpretrain"):
        from_native(native, 'caffe')
    with pytest.raises(ValueError, match='the names are those of mmpretrain'):
        from_native(from_native(native, 'mmpretrain'), 'mmseg')
    doubled = {f'{name}.{k}': v for name in ('student', 'teacher') for k, v in native.items()}
    with pytest.raises(ValueError, match=r"more than one backbone.*'student\. \(native\)', 'teacher\. \(native\)'"):
        to_native(doubled)


@pytest.mark.parametrize(
    'names', ['blocks.0.norm1.weight', 'stages.0.blocks.1.norm1.weight', 'layers.0.1.0.norm1.bias']
)
def test_other_transformers_are_not_taken_for_twins(names: str) -> None:
    with pytest.raises(ValueError, match='no Twins backbone'):
        recognise({f'backbone.{names}': torch.zeros(1)})


def test_unwrap_finds_the_weights() -> None:
    weights = {'a': torch.zeros(1)}
    for checkpoint in (
        weights,
        {'state_dict': weights, 'meta': {}},
        {'model': weights},
        {'module.a': torch.zeros(1)},
        {'state_dict': {'module.a': torch.zeros(1), 'iteration': 3}},
    ):
        assert_equal(unwrap(checkpoint), weights)
    for checkpoint in ([1], {0: torch.zeros(1)}, {'state_dict': {0: 1}}):
        with pytest.raises(ValueError, match='no dict of weights by name'):
            unwrap(checkpoint)


@pytest.mark.parametrize(
    ('fmt', 'names'), [('native', 'native (official, timm)'), ('mmseg', 'mmseg'), ('mmpretrain', 'mmpretrain')]
)
def test_one_line_says_what_was_loaded(fmt: str, names: str, capfd) -> None:
    MMLogger.get_instance(f'line_{fmt}')  # MMEngine's current logger, on the stream captured here
    model = make_tiny()
    model.load_state_dict(from_native(tiny_classifier(), fmt), strict=False)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if 'Twins checkpoint' in line]
    assert line.endswith(
        f'Twins checkpoint recognised as ImageNet classifier in {names} names: {len(model.state_dict()) - 8} tensors '
        'loaded into the backbone, 4 dropped (head 2, final norm 2), 8 left fresh (stage norms)'
    )


def test_line_for_a_whole_model_and_for_fewer_stages() -> None:
    weights = {f'backbone.{k}': v for k, v in random_weights(make_tiny()).items()} | {'decode_head.a': torch.zeros(1)}
    kept, line, _ = fit_backbone({'state_dict': weights}, make_tiny(out_indices=(0, 1)).state_dict())
    assert all(name.split('.')[1] in '01' for name in kept)
    later = len(weights) - 1 - len(kept)
    assert line.endswith(
        f'as whole model in native (official, timm) names: {len(kept)} tensors loaded into the backbone, {later + 1} '
        f'dropped (stages not built {later}, heads of the model 1), 0 left fresh'
    )


@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_whole_models_of_the_public_code_hold_an_unused_classifier(family: type[TwinsBackbone]) -> None:
    unused = {'norm.weight': torch.randn(32), 'norm.bias': torch.randn(32), 'head.weight': torch.randn(10, 32)}
    native = {**random_weights(make_tiny(family)), **unused}
    whole = {f'backbone.{k}': v for k, v in native.items()} | {'decode_head.a': torch.zeros(1)}
    assert_equal(to_native(whole), whole)
    kept, line, _ = fit_backbone(whole, make_tiny(family).state_dict())
    assert kept.keys() == make_tiny(family).state_dict().keys()
    assert 'as whole model' in line
    assert '4 dropped (head 1, final norm 2, heads of the model 1), 0 left fresh' in line
    assert 'as backbone' in fit_backbone(native, make_tiny(family).state_dict()).summary or family is TwinsPCPVTBackbone


def test_final_norm_of_a_classifier_goes_where_a_backbone_has_one() -> None:
    classifier = tiny_classifier()
    for fmt in FORMATS:
        model = make_tiny(norm_after_stage=LAST_NORM_ONLY)
        assert not model.load_state_dict(from_native(classifier, fmt), strict=False).missing_keys
        assert torch.equal(model.norm_list[3].weight, classifier['norm.weight'])
        dense = make_tiny()
        missing, unexpected = dense.load_state_dict(from_native(classifier, fmt), strict=False)
        assert {name.split('.')[0] for name in missing} == {'norm_list'}
        assert not unexpected
        assert (dense.norm_list[3].weight == 1).all()
        make_tiny(norm_after_stage=False).load_state_dict(from_native(classifier, fmt))


WRONG = 'not every weight in the checkpoint fits the backbone: '


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('is_strict', [True, False])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('blocks.2.1.mlp.fc1.bias'), r'blocks\.2\.1\.mlp\.fc1\.bias is missing in the checkpoint, \(48,\)'),
        (lambda w: w.update({'blocks.2.7.norm1.bias': torch.zeros(24)}), r'blocks\.2\.7\.norm1\.bias is \(24,\).*not there'),
        (lambda w: w.update({'pos_block.1.proj.0.bias': torch.zeros(3)}), r'0\.bias is \(3,\) in the checkpoint, \(16,\)'),
        (lambda w: w.pop('norm_list.1.weight'), r'norm_list\.1\.weight is missing'),
    ],
)  # fmt: skip
def test_missing_surplus_and_misshapen_weights_are_refused(change, message: str, is_strict: bool, fmt: str) -> None:
    weights = random_weights(make_tiny())
    change(weights)
    model = make_tiny()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f'{WRONG}.*{message}'):
        model.load_state_dict(from_native(weights, fmt), strict=is_strict)
    assert_equal(model.state_dict(), before)


def test_another_architecture_is_refused_with_both() -> None:
    deeper = make_tiny(arch=dict(TINY, depths=(2, 2, 5, 2)))
    with pytest.raises(
        ValueError,
        match=r'blocks\.2\.3\.norm1\.weight is missing.*and \d+ more\. The checkpoint holds SVT with embed_dims '
        r'\(8, 16, 24, 32\) and depths \(2, 2, 3, 2\), the backbone is SVT .* \(2, 2, 5, 2\)',
    ):
        deeper.load_state_dict(random_weights(make_tiny()))
    with pytest.raises(ValueError, match=r'holds PCPVT.*the backbone is SVT'):
        make_tiny().load_state_dict(random_weights(make_tiny(TwinsPCPVTBackbone)))
    with pytest.raises(ValueError, match=r'qkv\.bias is \(24,\) in the checkpoint, not there'):
        make_tiny(qkv_bias=False).load_state_dict(random_weights(make_tiny()))
    with pytest.raises(ValueError, match=r'norm_list.0.weight is \(8,\) in the checkpoint, not there'):
        make_tiny(norm_after_stage=False).load_state_dict(random_weights(make_tiny()))
    with pytest.raises(ValueError, match='no weight in the checkpoint fits the backbone'):
        make_tiny().load_state_dict({})


def test_other_sub_sampling_ratios_resize_kernels_with_a_warning(capfd) -> None:
    MMLogger.get_instance('other_ratios')
    weights = random_weights(make_tiny())
    model = make_tiny(sr_ratios=(4, 4, 1, 2), window_sizes=(5, 9, 16, 3))
    assert not model.load_state_dict(weights).missing_keys
    output = capfd.readouterr()
    assert (output.out + output.err).count('WARNING') == 3
    assert (
        '1 GSA sub-sampling kernels resized, sr_ratio 8 in the checkpoint and 4 in the backbone'
        in output.out + output.err
    )
    old, new = weights['blocks.0.1.attn.sr.weight'], model.blocks[0][1].attn.sr.weight
    assert_close(new.sum(dim=(2, 3)), old.sum(dim=(2, 3)))
    assert torch.equal(model.blocks[1][1].attn.sr.weight, weights['blocks.1.1.attn.sr.weight'])


class Dense(nn.Module):
    """A whole model in miniature."""

    def __init__(self, num_classes: int = 5, channels: int = 32, **heads: nn.Module) -> None:
        super().__init__()
        self.backbone = make_tiny()
        self.decode_head = nn.ModuleDict(dict(bottleneck=nn.Conv2d(channels, 8, 1), conv_seg=nn.Linear(8, num_classes)))
        for name, head in heads.items():
            self.add_module(name, head)


@pytest.mark.parametrize('fmt', FORMATS)
def test_whole_model_keeps_its_heads(fmt: str) -> None:
    source, target = random_weights(Dense()), Dense()
    weights, lines = fit_model({'state_dict': from_native(source, fmt)}, target.state_dict())
    assert lines == []
    target.load_state_dict(weights)
    assert_equal(target.state_dict(), source)


def test_wrapped_whole_models_are_unwrapped() -> None:
    source, target = random_weights(Dense()), Dense()
    for outer in ('module.', 'model.'):
        weights, _ = fit_model({outer + name: value for name, value in source.items()}, target.state_dict())
        assert_equal(weights, source)


def test_another_number_of_classes_keeps_all_but_the_last_layer() -> None:
    source, target = random_weights(Dense(num_classes=150)), Dense(num_classes=7)
    initial = target.decode_head['conv_seg'].weight.clone()
    weights, lines = fit_model(source, target.state_dict())
    assert lines == [
        'decode_head.conv_seg: 150 outputs in the checkpoint, 7 in the model (another number of classes), re-initialised'
    ]
    missing, _ = target.load_state_dict(weights, strict=False)
    assert set(missing) == {'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
    assert torch.equal(target.decode_head['conv_seg'].weight, initial)
    assert torch.equal(target.decode_head['bottleneck'].weight, source['decode_head.bottleneck.weight'])


def test_heads_that_are_not_there_get_a_line_and_other_heads_an_error() -> None:
    source = random_weights(Dense(auxiliary_head=nn.Linear(2, 2)))
    target = Dense(neck=nn.Linear(3, 3))
    weights, lines = fit_model(source, target.state_dict())
    assert lines == [
        'auxiliary_head: in the checkpoint, not in the model, dropped',
        'neck: not in the checkpoint, left as initialised',
    ]
    assert not target.load_state_dict(weights, strict=False).unexpected_keys
    for fmt in FORMATS:  # a bare backbone or classifier
        for bare in (random_weights(target.backbone), tiny_classifier()):
            weights, lines = fit_model(from_native(bare, fmt), target.state_dict())
            expected = [f'{part}: not in the checkpoint, left as initialised' for part in ('decode_head', 'neck')]
            assert [line for line in lines if not line.startswith('head: ')] == expected
            assert not target.load_state_dict(weights, strict=False).unexpected_keys
            assert torch.equal(target.backbone.blocks[0][0].norm1.weight, bare['blocks.0.0.norm1.weight'])
    other = {k.replace('bottleneck', 'fuse'): v for k, v in random_weights(target).items()}
    with pytest.raises(
        ValueError, match=r'decode_head is another one in the checkpoint: 2 weights are missing.*init_cfg'
    ):
        fit_model(other, target.state_dict())
    with pytest.raises(ValueError, match=r'bottleneck\.weight is \(8, 16, 1, 1\) in the checkpoint, \(8, 32, 1, 1\)'):
        fit_model(random_weights(Dense(channels=16)), Dense().state_dict())


@pytest.mark.parametrize('fmt', FORMATS)
def test_init_cfg_takes_any_format_with_and_without_prefix(fmt: str, tmp_path: Path) -> None:
    source = random_weights(Dense())
    torch.save({'state_dict': from_native(source, fmt)}, tmp_path / 'whole.pth')
    for prefix in (None, 'backbone.'):
        init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'), prefix=prefix)
        model = make_tiny(init_cfg=init_cfg)
        model.init_weights()
        for name, value in model.state_dict().items():
            assert torch.equal(value, source[f'backbone.{name}']), name


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_the_tool_converts_there_and_back(fmt: str, suffix: str, run_tool, tmp_path: Path) -> None:
    source = tiny_classifier()
    torch.save({'model': source}, tmp_path / 'source.pth')
    there, back = tmp_path / 'new' / f'there.{suffix}', tmp_path / 'back.pth'
    result = run_tool('convert_checkpoint.py', tmp_path / 'source.pth', there, '--to', fmt)
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
    assert run_tool('convert_checkpoint.py', there, back, '--to', 'native').returncode == 0
    assert_equal(read_checkpoint(str(back)), source)


def test_the_tool_gives_timm_the_backbone_of_a_whole_model(run_tool, tmp_path: Path) -> None:
    source = random_weights(Dense())
    torch.save({'state_dict': from_native(source, 'mmseg')}, tmp_path / 'whole.pth')
    result = run_tool('convert_checkpoint.py', tmp_path / 'whole.pth', tmp_path / 'a.safetensors', '--to', 'timm')
    assert result.returncode == 0, result.stderr
    assert 'decode_head.conv_seg.weight' in result.stdout
    assert result.stdout.strip().endswith('4 dropped')
    backbone = {k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')}
    assert_equal(read_checkpoint(str(tmp_path / 'a.safetensors')), backbone)


@pytest.mark.parametrize(
    ('src', 'dst', 'message'),
    [
        ('absent.pth', 'a.pth', 'absent.pth does not exist'),
        ('other.pth', 'a.pth', 'no Twins backbone is in the checkpoint, which has conv1.weight (1,)'),
        ('other.pth', 'a.onnx', 'a.onnx: give a file that ends in .pth or .safetensors'),
    ],
)
def test_the_tool_refuses_in_one_line(src: str, dst: str, message: str, run_tool, tmp_path: Path) -> None:
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    result = run_tool('convert_checkpoint.py', tmp_path / src, tmp_path / dst, '--to', 'timm')
    assert result.returncode == 1
    assert result.stderr.startswith('error: ')
    assert message in result.stderr
    assert not (tmp_path / dst).exists()
