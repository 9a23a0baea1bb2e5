"""The shipped configs: they parse, build, and have the published models, weight decay and drop path."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper

from mmtwins import Float32RetinaHead, Float32RoIExtractor, Float32RPNHead, TwinsSVTBackbone
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model, build_on_meta
from mmtwins.models.layers import PositionEncodingGenerator
from mmtwins.weights.applying import fit_file
from mmtwins.weights.pretrained import IMAGENET

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from recipes import CONFIGS, DEPTHS, EMBED_DIMS, NAMES, RECIPES, Recipe

# tests/configs/test_imagenet.py has those that need mmpretrain.
LEAVES = sorted(path for path in CONFIGS.glob('*/*.py') if path.parent.name not in ('_base_', 'imagenet'))
TOY_LEAVES = [path for path in LEAVES if path.parent.name == 'toy']
each_recipe = pytest.mark.parametrize('recipe', RECIPES, ids=lambda recipe: recipe.name)
each_leaf = pytest.mark.parametrize('path', LEAVES, ids=lambda path: path.stem)


def test_there_is_one_config_per_published_model() -> None:
    assert len(NAMES) == 34
    published = [
        path.stem for path in LEAVES if path.parent.name not in ('toy', 'training') and 'calibrated' not in path.stem
    ]
    assert sorted(published) == NAMES
    assert len(TOY_LEAVES) == 3


def test_base_names_are_unique() -> None:
    # mim looks a config up by its base name in the whole package.
    names = [path.name for path in CONFIGS.rglob('*.py')]
    assert len(names) == len(set(names))


def inheritance_depth(path: Path) -> int:
    from mmengine.config import Config

    bases = Config._get_base_files(str(path))
    return 1 + max((inheritance_depth((path.parent / base).resolve()) for base in bases), default=0)


@each_leaf
def test_config_parses_without_bases_from_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert 'mmseg::' not in text
    assert 'mmdet::' not in text
    assert inheritance_depth(path) <= 3
    cfg = load_config(str(path))
    assert cfg.custom_imports == dict(imports=['mmtwins'], allow_failed_imports=False)
    assert cfg.model.backbone.type in ('TwinsSVTBackbone', 'TwinsPCPVTBackbone')
    # Every parameter gets a gradient, so DistributedDataParallel need not look for unused ones.
    assert 'find_unused_parameters' not in str(cfg.to_dict())
    assert 'model_wrapper_cfg' not in cfg


@each_leaf
def test_data_root_moves_every_data_set_and_annotation_file(path: Path, tmp_path: Path) -> None:
    cfg = load_config(str(path), {'data_root': str(tmp_path)})
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == str(tmp_path)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert Path(evaluator.get('ann_file', tmp_path)).is_relative_to(tmp_path)
    assert 'data/' not in str({k: v for k, v in cfg.items() if k not in ('data_root',)}).replace(str(tmp_path), '')


@pytest.mark.parametrize('path', TOY_LEAVES, ids=lambda path: path.stem)
def test_toy_models_build(path: Path) -> None:
    with torch.device('meta'):
        build_model(load_config(str(path)))


@each_recipe
def test_backbone_is_the_published_one(recipe: Recipe) -> None:
    backbone = recipe.model.backbone
    is_svt = recipe.backbone.startswith('svt')
    assert type(backbone).__name__ == ('TwinsSVTBackbone' if is_svt else 'TwinsPCPVTBackbone')
    assert [embed.proj.out_channels for embed in backbone.patch_embeds] == EMBED_DIMS[recipe.backbone]
    assert [len(blocks) for blocks in backbone.blocks] == DEPTHS[recipe.backbone]
    assert [isinstance(norm, torch.nn.LayerNorm) for norm in backbone.norm_list] == [is_svt] * 4
    if is_svt:
        # The public ADE20K code masks padding, the public COCO code lets zeros take part.
        assert recipe.cfg.model.backbone.window_padding == ('masked' if recipe.dataset == 'ade20k' else 'zero')


@each_recipe
def test_recipes_start_from_the_imagenet_weights_of_their_backbone(recipe: Recipe, tmp_path: Path) -> None:
    family, size = recipe.backbone.split('-')
    (name,) = (f'{family}-{arch}' for arch in ('small', 'base', 'large') if arch[0] == size)
    cfg = recipe.cfg.model
    assert cfg.backbone.init_cfg == dict(type='Pretrained', checkpoint=f'imagenet:{name}')
    assert name == f'{family}-{cfg.backbone.arch}'
    assert name in IMAGENET
    assert 'init_cfg' not in cfg
    assert cfg.get('pretrained') is None
    options = {'model.backbone.init_cfg.checkpoint': 'a.pth'}
    assert load_config(str(recipe.path), options).model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth')
    assert load_config(str(recipe.path), {'model.backbone.init_cfg': None}).model.backbone.init_cfg is None
    recipe.cfg.dump(tmp_path / 'dumped.py')
    assert load_config(str(tmp_path / 'dumped.py')).model == cfg


def test_calibrated_models_start_from_resized_imagenet_weights_and_toys_from_none() -> None:
    weights = {
        name: torch.zeros(value.shape)
        for name, value in TwinsSVTBackbone(arch='small', norm_after_stage=False).state_dict().items()
    }
    weights |= {'norm.weight': torch.ones(512), 'norm.bias': torch.zeros(512)}
    weights |= {'head.weight': torch.zeros(1000, 512), 'head.bias': torch.zeros(1000)}
    for path in LEAVES:
        cfg = load_config(str(path)).model.backbone
        if 'calibrated' in path.stem:
            assert cfg.init_cfg == dict(type='Pretrained', checkpoint='imagenet:svt-small')
            expected = build_on_meta(load_config(str(path)), cfg).state_dict()
            fit = fit_file(weights, expected)
            assert set(fit.fresh) == {f'norm_list.{i}.{kind}' for i in range(4) for kind in ('weight', 'bias')}
            assert fit.changes
        elif path in TOY_LEAVES:
            assert 'init_cfg' not in cfg  # given, even as None, it would block dotted options


@each_recipe
def test_drop_path_rises_linearly_over_all_blocks_to_what_the_published_model_ran(recipe: Recipe) -> None:
    # The public segmentation classes ignore arguments and have 0.3 for SVT-L alone, the detection ones 0.2 throughout.
    highest = 0.3 if (recipe.dataset, recipe.backbone) == ('ade20k', 'svt-l') else 0.2
    rates = [block.drop_path1.rate for blocks in recipe.model.backbone.blocks for block in blocks]
    assert rates == pytest.approx([highest * i / (len(rates) - 1) for i in range(len(rates))], abs=1e-12)


@each_recipe
def test_heads_are_the_published_ones(recipe: Recipe) -> None:
    dims = EMBED_DIMS[recipe.backbone]
    model, cfg = recipe.model, recipe.cfg.model
    if recipe.dataset == 'ade20k':
        head = model.decode_head
        assert (head.num_classes, head.conv_seg.out_channels, head.dropout_ratio) == (150, 150, 0.1)
        assert not head.align_corners
        assert (cfg.decode_head.norm_cfg.type, cfg.test_cfg.mode) == ('SyncBN', 'whole')
        assert cfg.data_preprocessor.size == (512, 512)
    else:
        assert model.neck.out_channels == 256
        assert model.neck.num_outs == 5
    if recipe.head == 'upernet':
        assert (head.in_channels, head.channels) == (dims, 512)
        assert tuple(cfg.decode_head.pool_scales) == (1, 2, 3, 6)
        auxiliary = model.auxiliary_head
        assert (auxiliary.in_channels, auxiliary.in_index, auxiliary.channels) == (dims[2], 2, 256)
        assert (auxiliary.loss_decode.loss_weight, auxiliary.num_classes) == (0.4, 150)
        assert (auxiliary.dropout_ratio, cfg.auxiliary_head.norm_cfg.type) == (0.1, 'SyncBN')
    elif recipe.head == 'fpn':
        assert (model.neck.in_channels, model.neck.out_channels, model.neck.num_outs) == (dims, 256, 4)
        assert (head.in_channels, head.channels) == ([256] * 4, 128)
        assert head.feature_strides == [4, 8, 16, 32]
        assert not model.with_auxiliary_head
    elif recipe.head == 'mask-rcnn':
        assert [conv.conv.in_channels for conv in model.neck.lateral_convs] == dims
        assert (model.roi_head.bbox_head.num_classes, model.roi_head.mask_head.num_classes) == (80, 80)
        assert cfg.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
        # MMDetection's classes, but for RoIs and proposals in float32 when the rest is float16, as in the public code.
        assert isinstance(model.rpn_head, Float32RPNHead)
        for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
            assert isinstance(extractor, Float32RoIExtractor)
            assert (extractor.featmap_strides, extractor.finest_scale) == ([4, 8, 16, 32], 56)
    else:
        # Levels from stage 1 on, the two coarsest by strided convolutions from the last stage.
        assert [conv.conv.in_channels for conv in model.neck.lateral_convs] == dims[1:]
        assert [conv.conv.in_channels for conv in model.neck.fpn_convs] == [256, 256, 256, dims[3], 256]
        assert model.neck.add_extra_convs == 'on_input'
        assert isinstance(model.bbox_head, Float32RetinaHead)
        assert model.bbox_head.num_classes == 80
        assert model.bbox_head.num_base_priors == 9
        assert (model.bbox_head.loss_cls.gamma, model.bbox_head.loss_cls.alpha) == (2.0, 0.25)
        assert cfg.test_cfg.score_thr == 0.05


@each_recipe
def test_optimizer_decays_what_the_published_run_decayed(recipe: Recipe) -> None:
    cfg = copy.deepcopy(recipe.cfg.optim_wrapper)
    if recipe.head == 'mask-rcnn' and recipe.schedule == '3x':
        # A float is a static scale for MMEngine, as 512 is in the public fp16 setting.
        assert (cfg.type, cfg.pop('loss_scale')) == ('AmpOptimWrapper', 512.0)
        cfg.type = 'OptimWrapper'  # the other one cannot be built without a GPU
    assert (cfg.type, cfg.optimizer.type) == ('OptimWrapper', 'AdamW')
    assert cfg.get('clip_grad') is None
    assert cfg.get('accumulative_counts', 1) == 1
    model = recipe.model
    optimizer = build_optim_wrapper(model, cfg).optimizer
    assert optimizer.defaults['betas'] == (0.9, 0.999)
    decay, spared = {
        '160k': (0.01, True),
        '80k': (1e-4, False),
        '1x': (1e-4, False),
        '3x': (0.05, True),
    }[recipe.schedule]
    # Every key hits parameters: the pos_block of mmseg's port matches nothing, because its module has another name.
    keys = cfg.get('paramwise_cfg', {}).get('custom_keys', {})
    assert set(keys) == ({'pos_block', 'norm'} if spared else set())
    for key in keys:
        assert any(key in name for name, _ in model.named_parameters())
    decays = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    undecayed = {name for name, p in model.named_parameters() if decays[id(p)] == 0}
    kinds = (torch.nn.LayerNorm, PositionEncodingGenerator)
    expected = {
        f'backbone.{name}.{parameter}'
        for name, module in model.backbone.named_modules()
        if isinstance(module, kinds)
        for parameter, _ in module.named_parameters()
    }
    assert undecayed == (expected if spared else set())
    assert undecayed == {n for n, _ in model.named_parameters() if any(key in n for key in keys)}
    assert {decays[id(p)] for n, p in model.named_parameters() if n not in undecayed} == {decay}
    assert {group['lr'] for group in optimizer.param_groups} == {cfg.optimizer.lr}


# Each head once, each backbone twice; RetinaNet leaves the first stage out, whose norm only SVT has.
STEPPED = [
    recipe
    for recipe in RECIPES
    if (recipe.head, recipe.backbone)
    in (('upernet', 'pcpvt-s'), ('fpn', 'svt-s'), ('mask-rcnn', 'pcpvt-s'), ('retinanet', 'svt-s'))
    and recipe.schedule != '3x'
]


@pytest.mark.parametrize('recipe', STEPPED, ids=lambda recipe: recipe.name)
def test_every_parameter_gets_a_gradient_in_one_step(recipe: Recipe) -> None:
    # Without this, DistributedDataParallel would need find_unused_parameters.
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_model(recipe.cfg)).train()
    if recipe.dataset == 'ade20k':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 64, 64))))
        inputs = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
        data = dict(inputs=[inputs, inputs.flip(2)], data_samples=[sample, sample.clone()])
        model.data_preprocessor.size = (64, 64)
    else:
        from mmdet.testing import demo_mm_inputs

        data = demo_mm_inputs(1, [(3, 128, 128)], num_items=[2], num_classes=80, with_mask=recipe.head == 'mask-rcnn')
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    total.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
