"""What of a checkpoint fits a backbone or a whole model, what is dropped or left fresh, and what is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from tiny import LAST_NORM_ONLY, TINY, Dense, assert_equal, make_tiny, random_weights, tiny_classifier
from torch import nn
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.backbone import TwinsBackbone
from mmtwins.weights.fitting import check_heads, fit_backbone, fit_model, has_one_backbone
from mmtwins.weights.formats import FORMATS, from_native, to_native


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
    fit = fit_backbone({'state_dict': weights}, make_tiny(out_indices=(0, 1)).state_dict())
    kept, line = fit.weights, fit.summary
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
    fit = fit_backbone(whole, make_tiny(family).state_dict())
    kept, line = fit.weights, fit.summary
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


@pytest.mark.parametrize('fmt', FORMATS)
def test_whole_model_keeps_its_heads(fmt: str) -> None:
    source, target = random_weights(Dense()), Dense()
    fit = fit_model({'state_dict': from_native(source, fmt)}, target.state_dict())
    weights, lines = fit.weights, fit.warnings
    assert lines == []
    target.load_state_dict(weights)
    assert_equal(target.state_dict(), source)


def test_wrapped_whole_models_are_unwrapped() -> None:
    source, target = random_weights(Dense()), Dense()
    for outer in ('module.', 'model.'):
        weights = fit_model({outer + name: value for name, value in source.items()}, target.state_dict()).weights
        assert_equal(weights, source)


def test_another_number_of_classes_keeps_all_but_the_last_layer() -> None:
    source, target = random_weights(Dense(num_classes=150)), Dense(num_classes=7)
    initial = target.decode_head['conv_seg'].weight.clone()
    fit = fit_model(source, target.state_dict())
    weights, lines = fit.weights, fit.warnings
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
    fit = fit_model(source, target.state_dict())
    weights, lines = fit.weights, fit.warnings
    assert lines == [
        'auxiliary_head: in the checkpoint, not in the model, dropped',
        'neck: not in the checkpoint, left as initialised',
    ]
    assert not target.load_state_dict(weights, strict=False).unexpected_keys
    for fmt in FORMATS:  # a bare backbone or classifier
        for bare in (random_weights(target.backbone), tiny_classifier()):
            fit = fit_model(from_native(bare, fmt), target.state_dict())
            weights, lines = fit.weights, fit.warnings
            expected = [f'{part}: not in the checkpoint, left as initialised' for part in ('decode_head', 'neck')]
            assert [line for line in lines if not line.startswith('head: ')] == expected
            assert not target.load_state_dict(weights, strict=False).unexpected_keys
            assert torch.equal(target.backbone.blocks[0][0].norm1.weight, bare['blocks.0.0.norm1.weight'])
    other = {k.replace('bottleneck', 'fuse'): v for k, v in random_weights(target).items()}
    message = r'decode_head\.bottleneck\.bias is missing in the checkpoint, \(8,\) in the model.*init_cfg'
    with pytest.raises(ValueError, match=f'decode_head is another one.*{message}'):
        fit_model(other, target.state_dict())
    with pytest.raises(ValueError, match=r'bottleneck\.weight is \(8, 16, 1, 1\) in the checkpoint, \(8, 32, 1, 1\)'):
        fit_model(random_weights(Dense(channels=16)), Dense().state_dict())


@pytest.mark.parametrize('allow_bare_backbone', [False, True])
@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        (dict(), dict(), None),
        (dict(auxiliary_head=nn.Linear(3, 3)), dict(), None),
        (dict(), dict(auxiliary_head=nn.Linear(3, 3)), None),
        (dict(), dict(num_classes=3), r'decode_head\.conv_seg: 5 outputs .* classes\): give the config it was trained'),
        (dict(), dict(neck=nn.Linear(3, 3)), 'neck: not in the checkpoint: give the config it was trained with'),
    ],
)
def test_predictions_need_the_heads_of_the_checkpoint(
    source: dict, target: dict, message: str | None, allow_bare_backbone: bool
) -> None:
    fit = fit_model(random_weights(Dense(**source)), Dense(**target).state_dict())
    if message is None:
        check_heads(fit, allow_bare_backbone)
        return
    with pytest.raises(ValueError, match=message):
        check_heads(fit, allow_bare_backbone)


def test_predictions_need_heads_unless_a_bare_backbone_is_allowed() -> None:
    fit = fit_model(random_weights(make_tiny()), Dense().state_dict())
    check_heads(fit, allow_bare_backbone=True)
    with pytest.raises(ValueError, match='decode_head: not in the checkpoint: give that of a whole model'):
        check_heads(fit)


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
def test_every_missing_truncated_or_scalar_tensor_is_refused(fmt: str) -> None:
    weights, expected = from_native(random_weights(make_tiny()), fmt), make_tiny().state_dict()
    for name, value in weights.items():
        for damaged in (None, value[:-1], torch.zeros(())):
            given = {k: v for k, v in weights.items() if k != name} | ({} if damaged is None else {name: damaged})
            with pytest.raises(ValueError, match=r'fits the backbone'):
                fit_backbone(given, expected)


@pytest.mark.parametrize(
    'name',
    ['cls_token', 'foo.bar', 'blocks.0.foo.bar', 'blocks.7.0.attn.x', 'pos_block.9.x', 'norm_list.4.weight', 'head.extra',
     'norm.extra', 'patch_embeds.4.proj.weight', 'blocks.0.0.attn.rel_pos'],
)  # fmt: skip
def test_every_surplus_tensor_is_refused_by_name(name: str) -> None:
    surplus = {name: torch.zeros(1)}
    with pytest.raises(
        ValueError, match=rf'not every weight.*{re.escape(name)} is \(1,\) in the checkpoint, not there'
    ):
        fit_backbone({**random_weights(make_tiny()), **surplus}, make_tiny().state_dict())
    with pytest.raises(ValueError, match='not every weight'):
        fit_backbone({**tiny_classifier(), **surplus}, make_tiny().state_dict())


def test_non_square_kernels_are_refused() -> None:
    weights = random_weights(make_tiny())
    weights['blocks.0.1.attn.sr.weight'] = torch.zeros(8, 8, 8, 4)
    with pytest.raises(
        ValueError, match=r'sr\.weight is \(8, 8, 8, 4\) in the checkpoint, \(8, 8, 8, 8\) in the backbone'
    ):
        fit_backbone(weights, make_tiny().state_dict())


def test_summary_counts_the_rest_of_the_model() -> None:
    source = from_native(random_weights(Dense(auxiliary_head=nn.Linear(2, 2))), 'mmseg')
    fit = fit_model(source, Dense().state_dict())
    summary, warnings = fit.summary, fit.warnings
    assert (
        'as whole model in mmseg names: 160 tensors loaded into the backbone and 4 into the rest of the model'
        in summary
    )
    assert warnings == ['auxiliary_head: in the checkpoint, not in the model, dropped']


def test_only_classification_layers_may_differ() -> None:
    source = random_weights(Dense(rpn_head=nn.ModuleDict(dict(rpn_cls=nn.Linear(2, 9)))))
    target = Dense(rpn_head=nn.ModuleDict(dict(rpn_cls=nn.Linear(2, 3))))
    with pytest.raises(ValueError, match=r'rpn_cls\.bias is \(9,\) in the checkpoint, \(3,\) in the model'):
        fit_model(source, target.state_dict())


def test_models_with_one_backbone_are_told_from_others() -> None:
    assert has_one_backbone(Dense().state_dict())
    assert has_one_backbone(make_tiny().state_dict())
    assert not has_one_backbone(nn.Linear(2, 2).state_dict())
    assert not has_one_backbone(nn.ModuleDict(dict(student=Dense(), teacher=Dense())).state_dict())
