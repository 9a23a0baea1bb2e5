"""What of a checkpoint fits a backbone or a whole model, what is dropped or left fresh, and what is refused."""

import re

import pytest
import torch
from tiny import LAST_NORM_ONLY, TINY, Dense, assert_equal, make_tiny, random_weights, tiny_classifier
from torch import nn

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.backbone import TwinsBackbone
from mmtwins.weights.converting import from_native, to_native
from mmtwins.weights.fitting import check_heads, check_values, count_stages, fit_backbone, fit_model, has_one_backbone
from mmtwins.weights.formats import FORMATS
from mmtwins.weights.reporting import list_warnings


@pytest.mark.parametrize('family', [TwinsSVTBackbone, TwinsPCPVTBackbone])
def test_whole_models_of_the_public_code_hold_an_unused_classifier(family: type[TwinsBackbone]) -> None:
    unused = {'norm.weight': torch.randn(32), 'norm.bias': torch.randn(32), 'head.weight': torch.randn(10, 32)}
    native = {**random_weights(make_tiny(family)), **unused}
    whole = {f'backbone.{k}': v for k, v in native.items()} | {'decode_head.a': torch.zeros(1)}
    assert_equal(to_native(whole), whole)
    fit = fit_backbone(whole, make_tiny(family).state_dict())
    assert fit.weights.keys() == make_tiny(family).state_dict().keys()
    assert fit.kind == 'whole model'
    assert fit.dropped == {'head': 1, 'final norm': 2, 'heads of the model': 1}
    assert not fit.fresh
    bare = fit_backbone(native, make_tiny(family).state_dict())
    assert bare.kind == ('backbone' if family is TwinsSVTBackbone else 'ImageNet classifier')


def test_stages_that_are_not_built_are_dropped() -> None:
    weights = {f'backbone.{k}': v for k, v in random_weights(make_tiny()).items()} | {'decode_head.a': torch.zeros(1)}
    fit = fit_backbone({'state_dict': weights}, make_tiny(out_indices=(0, 1)).state_dict())
    assert all(name.split('.')[1] in '01' for name in fit.weights)
    assert fit.num_backbone == len(fit.weights)
    assert fit.dropped == {'stages not built': len(weights) - 1 - len(fit.weights), 'heads of the model': 1}


def test_another_architecture_is_refused_with_both() -> None:
    deeper = make_tiny(arch=dict(TINY, depths=(2, 2, 5, 2))).state_dict()
    with pytest.raises(
        ValueError,
        match=r'blocks\.2\.3\.norm1\.weight is missing.*and \d+ more\. The checkpoint holds SVT with embed_dims '
        r'\(8, 16, 24, 32\) and depths \(2, 2, 3, 2\), the backbone is SVT .* \(2, 2, 5, 2\)',
    ):
        fit_backbone(random_weights(make_tiny()), deeper)
    with pytest.raises(ValueError, match=r'holds PCPVT.*the backbone is SVT'):
        fit_backbone(random_weights(make_tiny(TwinsPCPVTBackbone)), make_tiny().state_dict())
    with pytest.raises(ValueError, match=r'qkv\.bias is \(24,\) in the checkpoint, not there'):
        fit_backbone(random_weights(make_tiny()), make_tiny(qkv_bias=False).state_dict())
    with pytest.raises(ValueError, match=r'norm_list.0.weight is \(8,\) in the checkpoint, not there'):
        fit_backbone(random_weights(make_tiny()), make_tiny(norm_after_stage=False).state_dict())
    wider = make_tiny(arch=dict(TINY, embed_dims=(16, 32, 48, 64)))
    with pytest.raises(ValueError, match=r'^no weight in the checkpoint fits the backbone: patch_embeds'):
        fit_backbone(random_weights(make_tiny()), wider.state_dict())
    with pytest.raises(ValueError, match='no weight in the checkpoint fits the backbone, which looks for'):
        fit_backbone({}, make_tiny().state_dict())


@pytest.mark.parametrize(('count', 'more'), [(3, ''), (5, '; and 2 more')])
def test_an_error_names_three_weights_and_counts_the_rest(count: int, more: str) -> None:
    surplus = {f'foo.{i}': torch.zeros(1) for i in range(count)}
    named = r'foo\.2 is \(1,\) in the checkpoint, not there in the'
    with pytest.raises(ValueError, match=rf'{named} backbone{more}\. The checkpoint holds'):
        fit_backbone(random_weights(make_tiny()) | surplus, make_tiny().state_dict())
    heads = {f'decode_head.{name}': value for name, value in reversed(surplus.items())}  # named in sorted order
    with pytest.raises(ValueError, match=rf'{named} model{more}\. To take the backbone only'):
        fit_model(random_weights(Dense()) | heads, Dense().state_dict())


@pytest.mark.parametrize('stages', [0, 1, 2, 3])
def test_stages_count_up_to_the_first_that_is_not_whole(stages: int) -> None:
    weights = random_weights(make_tiny())
    assert count_stages(weights) == 4
    for part in ('patch_embeds.{}.proj.weight', 'blocks.{}.0.norm1.weight'):
        assert count_stages({k: v for k, v in weights.items() if k != part.format(stages)}) == stages


def test_a_norm_of_the_last_stage_alone_is_dropped_where_all_stages_have_one() -> None:
    weights, expected = random_weights(make_tiny(norm_after_stage=LAST_NORM_ONLY)), make_tiny().state_dict()
    fit = fit_backbone(weights, expected)
    assert fit.kind == 'backbone'
    assert fit.dropped == {'final norm': 2}
    assert fit.fresh == tuple(name for name in expected if name.startswith('norm_list.'))
    assert_equal(dict(fit.weights), {k: v for k, v in weights.items() if not k.startswith('norm_list.')})


@pytest.mark.parametrize('fmt', FORMATS)
def test_the_norm_of_a_classifier_becomes_that_of_the_last_stage_where_only_that_has_one(fmt: str) -> None:
    classifier, expected = tiny_classifier(), make_tiny(norm_after_stage=LAST_NORM_ONLY).state_dict()
    fit = fit_backbone(from_native(classifier, fmt), expected)
    assert torch.equal(fit.weights['norm_list.3.weight'], classifier['norm.weight'])
    assert fit.weights.keys() == expected.keys()
    assert (fit.kind, fit.dropped, fit.fresh) == ('ImageNet classifier', {'head': 2}, ())


def test_a_fit_suits_models_that_have_a_place_for_every_weight() -> None:
    expected = Dense().state_dict()
    fit = fit_model(random_weights(make_tiny()), expected)
    assert fit.suits(expected)
    assert not fit.suits(make_tiny().state_dict())
    assert not fit.suits({**expected, 'backbone.norm_list.1.bias': torch.zeros(3)})


@pytest.mark.parametrize('fmt', FORMATS)
def test_whole_model_keeps_its_heads(fmt: str) -> None:
    source, target = random_weights(Dense()), Dense()
    fit = fit_model({'state_dict': from_native(source, fmt)}, target.state_dict())
    weights, lines = fit.weights, list_warnings(fit)
    assert lines == []
    target.load_state_dict(weights)
    assert_equal(target.state_dict(), source)


@pytest.mark.parametrize('outer', ['module.', 'model.', '_orig_mod.', 'ema.', 'module.ema.', 'student.module.'])
@pytest.mark.parametrize('inner', ['', '_orig_mod.', 'module._orig_mod.'])
@pytest.mark.parametrize('own', ['', '_orig_mod.'])
def test_wrapped_whole_models_keep_their_heads(outer: str, inner: str, own: str) -> None:
    """Around the whole model, around its backbone alone, and around the backbone that they are loaded into."""

    def wrap(name: str, prefix: str, middle: str) -> str:
        return prefix + name.replace('backbone.', f'backbone.{middle}')

    source = random_weights(Dense())
    given = {wrap(name, outer, inner): value for name, value in source.items()}
    fit = fit_model(given, {wrap(name, '', own): value for name, value in Dense().state_dict().items()})
    assert_equal(fit.weights, {wrap(name, '', own): value for name, value in source.items()})
    assert not fit.misfits
    assert not fit.dropped
    assert fit.num_heads == 4


@pytest.mark.parametrize('outer', ['module.', 'ema.', 'backbone.', 'module.backbone._orig_mod.', 'model.student.'])
def test_wrapped_backbones_are_found(outer: str) -> None:
    source, model = random_weights(make_tiny()), Dense()
    given = {outer + name: value for name, value in source.items()}
    assert_equal(fit_backbone(given, make_tiny().state_dict()).weights, source)
    assert_equal(fit_model(given, make_tiny().state_dict()).weights, source)
    fit = fit_model(given, model.state_dict())
    assert_equal(fit.weights, {f'backbone.{name}': value for name, value in source.items()})
    assert [(misfit.name, misfit.action) for misfit in fit.misfits] == [('decode_head', 'left as initialised')]


def test_a_count_of_batches_may_be_missing_or_surplus() -> None:
    with_norm, without = Dense(neck=nn.BatchNorm2d(3)), Dense(neck=nn.BatchNorm2d(3))
    given = random_weights(with_norm)
    del given['neck.num_batches_tracked']
    assert fit_model(given, without.state_dict()).weights.keys() == given.keys()
    expected = {k: v for k, v in without.state_dict().items() if not k.endswith('num_batches_tracked')}
    fit = fit_model(random_weights(with_norm), expected)
    assert fit.weights.keys() == expected.keys()
    assert fit.dropped == {'heads of the model': 1}


def test_weights_that_no_training_gives_are_refused_by_name() -> None:
    expected = make_tiny().state_dict() | {'neck.num_batches_tracked': torch.tensor(0)}
    weights = {'neck.num_batches_tracked': torch.tensor(7), **random_weights(make_tiny())}
    check_values(weights, expected)
    check_values({name: value.half() for name, value in weights.items()}, expected)
    name = 'blocks.1.0.mlp.fc1.bias'
    for bad in (float('nan'), float('inf')):
        with pytest.raises(ValueError, match=rf'{name} holds numbers that are not finite'):
            check_values({**weights, name: torch.full((32,), bad)}, expected)
    with pytest.raises(ValueError, match=rf'{name} holds int64 numbers'):
        check_values({**weights, name: torch.zeros(32, dtype=torch.int64)}, expected)


def test_another_number_of_classes_keeps_all_but_the_last_layer() -> None:
    source, target = random_weights(Dense(num_classes=150)), Dense(num_classes=7)
    initial = target.decode_head['conv_seg'].weight.clone()
    fit = fit_model(source, target.state_dict())
    weights, lines = fit.weights, list_warnings(fit)
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
    weights, lines = fit.weights, list_warnings(fit)
    assert lines == [
        'auxiliary_head: in the checkpoint, not in the model, dropped',
        'neck: not in the checkpoint, left as initialised',
    ]
    assert not target.load_state_dict(weights, strict=False).unexpected_keys
    for fmt in FORMATS:  # a bare backbone or classifier
        for bare in (random_weights(target.backbone), tiny_classifier()):
            fit = fit_model(from_native(bare, fmt), target.state_dict())
            weights, lines = fit.weights, list_warnings(fit)
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


class Classifier(nn.Module):
    """mmpretrain's ``ImageClassifier`` in miniature."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.backbone = make_tiny(norm_after_stage=LAST_NORM_ONLY, out_indices=(3,))
        self.head = nn.ModuleDict(dict(fc=nn.Linear(32, num_classes)))


@pytest.mark.parametrize('fmt', FORMATS)
def test_a_public_classifier_fits_that_of_mmpretrain_with_its_head(fmt: str) -> None:
    public, model = tiny_classifier(), Classifier()
    fit = fit_model(from_native(public, fmt), model.state_dict())
    assert (fit.misfits, fit.dropped, fit.fresh, fit.num_heads) == ((), {}, (), 2)
    model.load_state_dict(fit.weights)
    assert torch.equal(model.head['fc'].bias, public['head.bias'])
    assert torch.equal(model.backbone.norm_list[3].weight, public['norm.weight'])
    check_heads(fit)
    assert_equal(to_native(model.state_dict()), public)
    assert_equal(fit_model(model.state_dict(), model.state_dict()).weights, model.state_dict())
    other = fit_model(from_native(public, fmt), Classifier(num_classes=3).state_dict())
    assert list_warnings(other) == [
        'head.fc: 10 outputs in the checkpoint, 3 in the model (another number of classes), re-initialised'
    ]
    with pytest.raises(ValueError, match=r'^head\.fc: 10 outputs in the checkpoint, 3 in the model'):
        check_heads(other)


def test_a_classifier_trained_here_gives_a_dense_model_what_the_public_one_gives() -> None:
    model, target = Classifier(), Dense().state_dict()
    model.load_state_dict(fit_model(tiny_classifier(), model.state_dict()).weights)
    ours, public = fit_model(model.state_dict(), target), fit_model(tiny_classifier(), target)
    assert_equal(ours.weights, public.weights)
    assert ours.fresh == public.fresh and len(ours.fresh) == 8
    assert ours.dropped == public.dropped == {'head': 2, 'final norm': 2}


def test_misfits_are_sorted_by_name() -> None:
    theirs, ours = ({f'{kind}{i}': nn.Linear(1, 1) for i in range(5)} for kind in ('old', 'new'))
    fit = fit_model(random_weights(Dense(**dict(reversed(theirs.items())))), Dense(**ours).state_dict())
    assert [(misfit.name, misfit.action) for misfit in fit.misfits] == [
        *((name, 'left as initialised') for name in ours),
        *((name, 'dropped') for name in theirs),
    ]
    assert fit.dropped == {'heads of the model': 10}


@pytest.mark.parametrize('allow_bare_backbone', [False, True])
@pytest.mark.parametrize(
    ('source', 'target', 'message'),
    [
        (dict(), dict(), None),
        (dict(auxiliary_head=nn.Linear(3, 3)), dict(), None),
        (dict(), dict(auxiliary_head=nn.Linear(3, 3)), None),
        (dict(), dict(num_classes=3), r'decode_head\.conv_seg: 5 outputs .* classes\): give the config it was trained'),
        (dict(), dict(neck=nn.Linear(3, 3)), r'neck: not in the checkpoint: give the config it was trained with$'),
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


@pytest.mark.parametrize(
    'fmt', ['native', *(pytest.param(fmt, marks=pytest.mark.slow) for fmt in FORMATS if fmt != 'native')]
)
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


def test_kernels_of_no_sub_window_are_refused() -> None:
    weights = random_weights(make_tiny())
    weights['blocks.0.1.attn.sr.weight'] = torch.zeros(8, 8, 8)
    with pytest.raises(
        ValueError, match=r'sr\.weight is \(8, 8, 8\) in the checkpoint, \(8, 8, 8, 8\) in the backbone'
    ):
        fit_backbone(weights, make_tiny().state_dict())


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
