"""Checkpoints put into models: by load_state_dict, by init_cfg and by hand."""

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.runner import load_checkpoint
from tiny import LAST_NORM_ONLY, TINY, Dense, assert_equal, make_tiny, random_weights, tiny_classifier
from torch import nn
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone
from mmtwins.weights.applying import FittedCheckpoint, fit_file, load_weights
from mmtwins.weights.converting import from_native
from mmtwins.weights.formats import FORMATS


@pytest.fixture
def said(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture):
    """What was logged since the last call."""
    MMLogger.get_instance(request.node.name)  # MMEngine's current logger, on the streams captured here

    def read() -> str:
        output = capfd.readouterr()
        return output.out + output.err

    return read


FOREIGN = [fmt for fmt in FORMATS if fmt not in ('native', 'timm')]


@pytest.mark.parametrize('fmt', FOREIGN)
def test_other_formats_load_with_one_line(fmt: str, said) -> None:
    source, model = random_weights(make_tiny()), make_tiny()
    model.load_state_dict(from_native(source, fmt))
    assert_equal(model.state_dict(), source)
    assert said().count('Twins checkpoint recognised as backbone') == 1


def test_copies_in_memory_load_without_a_line(said) -> None:
    source, model = random_weights(Dense()), Dense()
    model.load_state_dict(source)
    assert_equal(model.state_dict(), source)
    model.backbone.load_state_dict(make_tiny().state_dict())
    model.load_state_dict({'backbone.norm_list.0.bias': torch.ones(8)}, strict=False)
    assert said() == ''


def test_parts_in_native_names_are_loaded_as_pytorch_does(said) -> None:
    plain = copy.deepcopy(make_tiny())
    plain._load_state_dict_pre_hooks.clear()
    whole = random_weights(plain)
    part = {name: value for name, value in whole.items() if name.startswith('blocks.1.')}
    no_norms = {name: value for name, value in whole.items() if not name.startswith('norm_list')}
    for given in (
        {},
        part,
        {'norm_list.3.weight': whole['norm_list.3.weight']},
        {'conv1.weight': torch.ones(2)},
        {'scale': 3},
    ):
        ours, theirs = make_tiny(), copy.deepcopy(plain)
        assert ours.load_state_dict(given, strict=False) == theirs.load_state_dict(given, strict=False)
        assert all(torch.equal(ours.state_dict()[name], given[name]) for name in given if name in whole)
        with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict'):
            ours.load_state_dict(given)
    with pytest.raises(RuntimeError, match=r'size mismatch for norm_list\.3\.weight'):
        make_tiny().load_state_dict({'norm_list.3.weight': torch.ones(3)}, strict=False)
    assert said() == ''
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "norm_list.0.weight"'):
        make_tiny().load_state_dict(no_norms)


@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('is_strict', [True, False])
@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.update({'blocks.2.7.norm1.bias': torch.zeros(24)}), r'blocks\.2\.7\.norm1\.bias is \(24,\).*not there'),
        (lambda w: w.update({'pos_block.1.proj.0.bias': torch.zeros(3)}), r'0\.bias is \(3,\) in the checkpoint, \(16,\)'),
    ],
)  # fmt: skip
def test_surplus_and_misshapen_weights_are_refused(change, message: str, is_strict: bool, fmt: str) -> None:
    weights = random_weights(make_tiny())
    change(weights)
    model = make_tiny()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f'not every weight in the checkpoint fits the backbone: .*{message}'):
        model.load_state_dict(from_native(weights, fmt), strict=is_strict)
    assert_equal(model.state_dict(), before)


@pytest.mark.parametrize('fmt', FOREIGN)
@pytest.mark.parametrize('is_strict', [True, False])
@pytest.mark.parametrize('name', ['blocks.2.1.mlp.fc1.bias', 'norm_list.1.weight'])
def test_missing_weights_of_other_formats_are_refused(name: str, is_strict: bool, fmt: str) -> None:
    weights = random_weights(make_tiny())
    del weights[name]
    with pytest.raises(ValueError, match=rf'{name} is missing in the checkpoint'):
        make_tiny().load_state_dict(from_native(weights, fmt), strict=is_strict)


def test_other_architectures_are_refused_with_both() -> None:
    for model in (make_tiny(arch=dict(TINY, embed_dims=(8, 16, 24, 64))), make_tiny(TwinsPCPVTBackbone)):
        with pytest.raises(ValueError, match=r'The checkpoint holds SVT .*, the backbone is (SVT|PCPVT)'):
            model.load_state_dict(random_weights(make_tiny()), strict=False)


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


@pytest.mark.parametrize('fmt', FORMATS)
def test_whole_models_load_into_a_backbone(fmt: str) -> None:
    source = random_weights(Dense())
    for outer in ('', 'module.', 'ema._orig_mod.'):
        model = make_tiny()
        foreign = from_native(source, fmt)
        model.load_state_dict({'state_dict': {outer + name: value for name, value in foreign.items()}, 'meta': {}})
        assert_equal(
            {f'backbone.{name}': value for name, value in model.state_dict().items()},
            {name: value for name, value in source.items() if name.startswith('backbone.')},
        )


def test_other_sub_sampling_ratios_resize_kernels_with_a_warning(said) -> None:
    weights = random_weights(make_tiny())
    model = make_tiny(sr_ratios=(4, 4, 1, 2), window_sizes=(5, 9, 16, 3))
    assert not model.load_state_dict(weights).missing_keys
    output = said()
    assert output.count('WARNING') == 3
    assert '1 GSA sub-sampling kernels resized, sr_ratio 8 in the checkpoint and 4 in the backbone' in output
    old, new = weights['blocks.0.1.attn.sr.weight'], model.blocks[0][1].attn.sr.weight
    assert_close(new.sum(dim=(2, 3)), old.sum(dim=(2, 3)))
    assert torch.equal(model.blocks[1][1].attn.sr.weight, weights['blocks.1.1.attn.sr.weight'])


@pytest.mark.parametrize('kind', ['conv', 'separable', 'pool'])
def test_other_sub_samplings_load_with_a_warning(kind: str, said, tmp_path: Path) -> None:
    for given in ('conv', 'separable', 'pool'):
        source = make_tiny(subsampling=given)
        source.load_state_dict(random_weights(source))
        torch.save(source.state_dict(), tmp_path / f'{given}.pth')
        by_dict, by_file = make_tiny(subsampling=kind), make_tiny(subsampling=kind)
        by_file.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / f'{given}.pth'))
        said()
        by_dict.load_state_dict(source.state_dict())
        output = said()
        assert (f'{given}' in output and 'in the checkpoint' in output) == (given != kind)
        by_file.init_weights()
        assert_equal(by_file.state_dict(), by_dict.state_dict())
        assert torch.equal(by_dict.blocks[1][1].attn.norm.weight, source.blocks[1][1].attn.norm.weight)


def through_torch_save(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, **{'weights_only': False})


@pytest.mark.parametrize('copy_of', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), through_torch_save])
def test_copies_of_a_model_load_other_formats_too(copy_of) -> None:
    model = make_tiny()
    copied, source = copy_of(model), random_weights(model)
    before = copy.deepcopy(model.state_dict())
    copied.load_state_dict(from_native(source, 'mmseg'))
    assert_equal(copied.state_dict(), source)
    assert_equal(model.state_dict(), before)


def test_meta_device_and_functional_call() -> None:
    source = random_weights(make_tiny())
    for given in (source, from_native(source, 'mmseg')):
        with torch.device('meta'):
            model = make_tiny()
        model.load_state_dict(given, assign=True)
        assert_equal(model.state_dict(), source)
    assert model.patch_embeds[0].proj.weight.data_ptr() == source['patch_embeds.0.proj.weight'].data_ptr()
    other, image = make_tiny(), torch.randn(1, 3, 64, 64)
    for a, b in zip(torch.func.functional_call(other, source, (image,)), model(image)):
        assert_close(a, b)


def test_values_are_not_looked_at() -> None:
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    source, model = random_weights(make_tiny()), make_tiny()
    with Watch():
        model.load_state_dict(source)
    assert set(seen) <= {torch.ops.aten.copy_, torch.ops.aten.detach}


def test_sharded_models_load_whole_and_sharded_state_dicts() -> None:
    fsdp = pytest.importorskip('torch.distributed.fsdp')
    if not hasattr(fsdp, 'fully_shard'):
        pytest.skip('needs torch 2.6 or newer')
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh('cpu', (1,))
        whole = StateDictOptions(full_state_dict=True)
        source, model = random_weights(make_tiny()), make_tiny()
        for blocks in model.blocks:
            for block in blocks:
                fsdp.fully_shard(block, mesh=mesh)
        fsdp.fully_shard(model, mesh=mesh)
        set_model_state_dict(model, dict(source), options=whole)
        assert_equal(get_model_state_dict(model, options=whole), source)
        sharded = {name: value * 2 for name, value in model.state_dict().items()}
        assert isinstance(sharded['norm_list.0.bias'], torch.distributed.tensor.DTensor)
        model.load_state_dict(sharded)
        assert_equal(get_model_state_dict(model, options=whole), {name: value * 2 for name, value in source.items()})
    finally:
        torch.distributed.destroy_process_group()


def test_layers_put_in_later_load_what_they_saved() -> None:
    model = make_tiny()
    model.patch_embeds[0].proj = nn.Conv2d(4, 8, 4, 4)
    model.blocks[0][0].mlp.fc1 = nn.Sequential(model.blocks[0][0].mlp.fc1)
    source = random_weights(model)
    model.load_state_dict(source)
    assert_equal(model.state_dict(), source)
    quantised = torch.ao.quantization.quantize_dynamic(make_tiny(), {nn.Linear}, inplace=False)
    quantised.load_state_dict(quantised.state_dict())


class Whole(BaseModule):
    """A whole model in miniature, as MMEngine's libraries build them."""

    def __init__(self, num_classes: int = 5, init_cfg: dict | None = None, **backbone) -> None:
        super().__init__(init_cfg)
        self.backbone = make_tiny(**backbone)
        self.conv_seg = nn.Linear(8, num_classes)


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('fmt', FORMATS)
def test_init_cfg_takes_any_format_with_and_without_prefix(fmt: str, kind: str | type, tmp_path: Path) -> None:
    source = random_weights(Dense())
    torch.save({'state_dict': from_native(source, fmt)}, tmp_path / 'whole.pth')
    for prefix in (None, 'backbone', 'backbone.'):
        model = make_tiny(init_cfg=dict(type=kind, checkpoint=str(tmp_path / 'whole.pth'), prefix=prefix))
        model.init_weights()
        for name, value in model.state_dict().items():
            assert torch.equal(value, source[f'backbone.{name}']), name


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
@pytest.mark.parametrize('fmt', FORMATS)
def test_init_cfg_refuses_what_does_not_fit(fmt: str, kind: str | type, tmp_path: Path) -> None:
    weights = random_weights(make_tiny())
    part = {name: value for name, value in weights.items() if name != 'blocks.2.1.mlp.fc1.bias'}
    for given in (from_native(part, fmt), {'conv1.weight': torch.zeros(1)}):
        torch.save(given, tmp_path / 'a.pth')
        init_cfg = dict(type=kind, checkpoint=str(tmp_path / 'a.pth'))
        model = make_tiny(init_cfg=init_cfg)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match='weight in the checkpoint fits the backbone'):
            model.init_weights()
        assert_equal(model.state_dict(), before)
    whole = Whole(init_cfg=init_cfg)
    with pytest.raises(ValueError, match='no weight in the checkpoint fits the backbone'):
        whole.init_weights()


def test_init_cfg_of_a_whole_model_takes_what_load_from_takes(tmp_path: Path, said) -> None:
    source = random_weights(Whole(num_classes=7))
    bare = {name.removeprefix('backbone.'): value for name, value in source.items() if name.startswith('backbone.')}
    for given, head in ((source, '7 outputs'), (from_native(bare, 'mmseg'), 'conv_seg: not in the checkpoint')):
        torch.save(given, tmp_path / 'a.pth')
        model = Whole(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
        model.init_weights()
        assert_equal(model.backbone.state_dict(), bare)
        output = said()
        assert head in output
        assert output.count('Twins checkpoint recognised') == 1
        assert 'do not match' not in output


def test_init_cfg_of_a_classifier_leaves_stage_norms_fresh_without_a_complaint(tmp_path: Path, said) -> None:
    torch.save(tiny_classifier(), tmp_path / 'a.pth')
    make_tiny(init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))).init_weights()
    output = said()
    assert f'load model from: {tmp_path / "a.pth"}' in output
    assert (
        f'PretrainedTwins: load from {tmp_path / "a.pth"}' in output
    )  # MMEngine's list of how weights were initialised
    assert '4 dropped (head 2, final norm 2), 8 left fresh (stage norms)' in output
    assert 'do not match' not in output


def test_init_cfg_refuses_a_prefix_that_is_not_there_and_weights_that_are_not_finite(tmp_path: Path) -> None:
    weights = random_weights(Dense())
    torch.save(weights, tmp_path / 'a.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='encoder.')
    with pytest.raises(ValueError, match=r'a\.pth: no weight has the prefix encoder\.: the first is backbone\.'):
        make_tiny(init_cfg=init_cfg).init_weights()
    weights['backbone.norm_list.1.bias'][3] = float('nan')
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: norm_list\.1\.bias holds numbers that are not finite'):
        make_tiny(init_cfg=dict(init_cfg, prefix='backbone.')).init_weights()
    make_tiny().load_state_dict(weights)  # a copy in memory is as good as what it copies


def test_modules_without_twins_are_initialised_by_mmengine(tmp_path: Path) -> None:
    class Head(BaseModule):
        def __init__(self) -> None:
            super().__init__(dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='head.'))
            self.fc = nn.Linear(2, 2)

    torch.save({'head.fc.weight': torch.ones(2, 2), 'head.fc.bias': torch.ones(2)}, tmp_path / 'a.pth')
    head = Head()
    head.init_weights()
    assert (head.fc.weight == 1).all()


def test_mmengine_loads_any_format(tmp_path: Path) -> None:
    source, model = random_weights(Dense()), Dense()
    torch.save({'state_dict': from_native(source, 'mmseg')}, tmp_path / 'a.pth')
    load_checkpoint(model, str(tmp_path / 'a.pth'))
    assert_equal(model.state_dict(), source)


@pytest.mark.parametrize('fmt', FORMATS)
def test_load_weights_puts_a_whole_model_in_place(fmt: str, said) -> None:
    source, model = random_weights(Dense()), Dense()
    load_weights(model, {'state_dict': from_native(source, fmt)})
    assert_equal(model.state_dict(), source)
    assert said().count('Twins checkpoint recognised') == 1


def test_load_weights_refuses_what_predictions_lack() -> None:
    source, model = random_weights(Dense()), Dense()
    norms = {name: value for name, value in source.items() if 'norm_list' not in name}
    heads = {name: value for name, value in source.items() if 'conv_seg' not in name}
    bare = {name: value for name, value in source.items() if name.startswith('backbone.')}
    before = copy.deepcopy(model.state_dict())
    for given, message in (
        (norms, '8 weights of the model are not in it, such as backbone.norm_list.0.weight'),
        (heads, 'decode_head is another one in the checkpoint'),
        (bare, 'decode_head: not in the checkpoint: give that of a whole model'),
    ):
        with pytest.raises(ValueError, match=message):
            load_weights(model, given)
    assert_equal(model.state_dict(), before)
    load_weights(model, bare, for_predictions=False)


def test_load_weights_of_a_model_without_twins() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    source = random_weights(model)
    del source['1.num_batches_tracked']
    load_weights(model, {'state_dict': {f'module.{name}': value for name, value in source.items()}})
    assert torch.equal(model[0].weight, source['0.weight'])
    with pytest.raises(ValueError, match=r'0\.weight is \(3, 2\) in the checkpoint, \(2, 2\) in the model'):
        load_weights(model, {**source, '0.weight': torch.zeros(3, 2)})
    with_auxiliary = nn.ModuleDict(dict(head=nn.Linear(2, 2), auxiliary_head=nn.Linear(2, 2)))
    load_weights(with_auxiliary, {'head.weight': torch.ones(2, 2), 'head.bias': torch.ones(2)})
    assert (with_auxiliary['head'].weight == 1).all()
    del source['0.weight']
    with pytest.raises(ValueError, match=r'1 weights of the model are not in it, such as 0\.weight'):
        load_weights(model, source)


def test_a_prefix_picks_the_backbone_alone() -> None:
    source, expected = random_weights(Dense()), make_tiny().state_dict()
    for prefix in ('backbone', 'backbone.', 'module.backbone'):
        fit = fit_file(source, expected, prefix)
        assert (fit.kind, fit.dropped) == ('backbone', {})
    assert fit_file(source, expected).kind == 'whole model'


def test_a_fitted_checkpoint_is_not_fitted_again_unless_the_model_is_another() -> None:
    checkpoint = {'state_dict': from_native(random_weights(Dense()), 'mmseg'), 'meta': {'iter': 3}}
    fit = fit_file(checkpoint, Dense().state_dict())
    fitted = FittedCheckpoint(checkpoint, fit)
    assert fitted['meta'] == {'iter': 3}
    assert fit_file(fitted, Dense().state_dict()) is fit
    other = Dense()
    other.decode_head['conv_seg'] = nn.Linear(8, 3)
    assert fit_file(fitted, other.state_dict()).misfits
