"""The ImageNet-1k recipes: settings of the public code, logits of its classifiers, one step by hand, real trainings."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from classification import CLASSES, load_tiny, need_mmpretrain
from golden import golden_input, golden_positions, golden_tensor, load_golden
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS
from torch import nn

from mmtwins.analysis.counting import count
from mmtwins.analysis.published_classifiers import CLASSIFIERS, ClassifierRun
from mmtwins.engine.config import load_config
from mmtwins.installing import how_to_install
from mmtwins.weights.fitting import fit_model

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / 'configs' / 'imagenet'
RUNS = list(CLASSIFIERS.values())
MODELS_IN_METAFILE = yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
ARCHS = {'s': 'small', 'b': 'base', 'l': 'large'}
each_run = pytest.mark.parametrize('run', RUNS, ids=lambda run: run.backbone)
small_and_the_rest = pytest.mark.parametrize(
    'run',
    [pytest.param(run, marks=[] if run.backbone == 'svt-s' else pytest.mark.slow, id=run.backbone) for run in RUNS],
)


def config_of(run: ClassifierRun) -> Config:
    """Without mmpretrain, which load_config would ask for."""
    return Config.fromfile(FOLDER / f'{run.name}.py')


class Classifier(nn.Module):
    """What mmpretrain builds from the config of a model, in its names, for machines without mmpretrain."""

    def __init__(self, cfg: Config) -> None:
        super().__init__()
        self.backbone = MODELS.build(cfg.model.backbone)
        self.head = nn.ModuleDict(dict(fc=nn.Linear(cfg.model.head.in_channels, cfg.model.head.num_classes)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        (features,) = self.backbone(images)
        return self.head['fc'](features.mean((2, 3)))


@cache
def on_meta(run: ClassifierRun) -> Classifier:
    """The model without values, shared by the tests."""
    with torch.device('meta'):
        return Classifier(config_of(run))


def public_weights(run: ClassifierRun) -> dict[str, torch.Tensor]:
    """A classifier in the names of the public code and timm, with the weights of the golden logits."""
    shapes = {name: value.shape for name, value in on_meta(run).state_dict().items()}
    names = [
        (name.removeprefix('backbone.').replace('norm_list.3.', 'norm.').replace('head.fc.', 'head.'), shape)
        for name, shape in shapes.items()
    ]
    return {name: torch.from_numpy(golden_tensor(name, tuple(shape))) for name, shape in names}


def assert_golden_logits(run: ClassifierRun, model: nn.Module) -> None:
    golden = load_golden('timm_classifiers')
    expected, images = golden['models'][run.backbone], golden_input(golden['height'], golden['width'], golden['batch'])
    weights = public_weights(run)
    assert sum(value.numel() for value in weights.values()) == expected['parameters'] == run.log_parameters
    fit = fit_model(weights, model.state_dict())
    assert (fit.misfits, fit.dropped, fit.fresh) == ((), {}, ())
    model.load_state_dict(fit.weights)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(images))
    assert list(logits.shape) == expected['shape']
    sampled = logits.flatten()[golden_positions(logits.numel())].double().numpy()
    assert np.abs(sampled - expected['values']).max() < 2e-5 * expected['std']


@small_and_the_rest
def test_logits_are_those_of_the_public_classifier(run: ClassifierRun) -> None:
    assert_golden_logits(run, Classifier(config_of(run)))


@small_and_the_rest
def test_logits_of_mmpretrains_classifier_are_those_of_the_public_one(run: ClassifierRun) -> None:
    need_mmpretrain()
    from mmtwins.engine.model import build_model

    assert_golden_logits(run, build_model(load_config(str(FOLDER / f'{run.name}.py'))))


@each_run
def test_model_is_the_published_one(run: ClassifierRun) -> None:
    cfg = config_of(run)
    family, size = run.backbone.split('-')
    backbone, head = cfg.model.backbone, cfg.model.head
    assert (cfg.default_scope, cfg.model.type, cfg.model.neck.type) == (
        'mmpretrain', 'ImageClassifier', 'GlobalAveragePooling'
    )  # fmt: skip
    assert (backbone.type, backbone.arch) == (f'Twins{family.upper()}Backbone', ARCHS[size])
    assert backbone.drop_path_rate == run.drop_path
    assert 'init_cfg' not in backbone  # pre-training starts from random weights
    built = on_meta(run)
    norms = [isinstance(norm, nn.LayerNorm) for norm in built.backbone.norm_list]
    assert norms == [False, False, False, True] and built.backbone.norm_list[3].eps == 1e-6
    assert head.in_channels == built.backbone.norm_list[3].normalized_shape[0]
    assert head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert head.init_cfg == dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0)
    assert head.num_classes == cfg.model.data_preprocessor.num_classes == 1000
    assert cfg.model.train_cfg == dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])
    assert 'EMAHook' not in str(cfg.custom_hooks)  # the public code has model_ema = None


@each_run
def test_schedule_is_the_published_one_in_every_epoch(run: ClassifierRun) -> None:
    cfg = config_of(run)
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (run.epochs, 1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    (scheduler,) = (PARAM_SCHEDULERS.build(one, default_args=dict(optimizer=optimizer)) for one in cfg.param_scheduler)
    rates = []
    for _ in range(run.epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, run.learning_rates(np.arange(run.epochs)), rtol=1e-12)
    assert cfg.train_dataloader.batch_size == run.images
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=run.batch)
    assert cfg.optim_wrapper.optimizer.lr == run.rate == 5e-4 * run.batch / 512


@each_run
def test_biases_vectors_and_position_encodings_are_not_decayed(run: ClassifierRun) -> None:
    cfg = config_of(run).optim_wrapper
    assert (cfg.pop('type'), cfg.clip_grad) == ('AmpOptimWrapper', dict(max_norm=run.clip_norm))  # needs a GPU
    model = on_meta(run)
    optimizer = build_optim_wrapper(model, dict(cfg, type='OptimWrapper')).optimizer
    assert (type(optimizer), optimizer.defaults['betas'], optimizer.defaults['eps']) == (
        torch.optim.AdamW, (0.9, 0.999), 1e-8
    )  # fmt: skip
    decay = {id(value): group['weight_decay'] for group in optimizer.param_groups for value in group['params']}
    names = dict(model.named_parameters())
    assert len(decay) == len(names)
    for name, value in names.items():  # timm's rule with no_weight_decay() of the public code
        spared = value.ndim == 1 or name.endswith('.bias') or name.startswith('backbone.pos_block.')
        assert decay[id(value)] == (0.0 if spared else run.weight_decay), name


def test_data_is_prepared_as_in_the_public_code() -> None:
    cfg = config_of(RUNS[0])
    train, test = (cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'test'))
    assert [step.type for step in train] == [
        'LoadImageFromFile', 'CheckImage', 'RandomResizedCrop', 'RandomFlip', 'RandAugment', 'RandomErasing', 'PackInputs'
    ]  # fmt: skip
    # rand-m9-mstd0.5-inc1; with it, timm leaves out the colour jitter that main.py names.
    augment = train[4]
    assert (augment.policies, augment.num_policies, augment.magnitude_level) == ('timm_increasing', 2, 9)
    assert (augment.magnitude_std, augment.total_level) == (0.5, 10)
    assert augment.hparams == dict(pad_val=[104, 116, 124], interpolation='bicubic')  # BGR
    erasing = train[5]
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert (erasing.min_area_ratio, erasing.max_area_ratio) == (0.02, 1 / 3)
    preprocessor = cfg.model.data_preprocessor
    assert (erasing.fill_color, erasing.fill_std) == (preprocessor.mean[::-1], preprocessor.std[::-1])
    assert [255 * value for value in (0.485, 0.456, 0.406)] == pytest.approx(preprocessor.mean)
    assert [255 * value for value in (0.229, 0.224, 0.225)] == pytest.approx(preprocessor.std)
    for step, scale in ((train[2], 224), (test[2], 256)):
        assert (step.scale, step.backend, step.interpolation) == (scale, 'pillow', 'bicubic')
    assert (test[2].edge, test[3].crop_size) == ('short', 224)
    assert train[0].color_type == test[0].color_type == 'color_ignore_orientation'
    # Repeated augmentation is off in the public code unless it is asked for.
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.train_dataloader.drop_last
    assert not cfg.val_dataloader.get('drop_last')


@each_run
def test_the_metafile_states_what_is_published_and_counted(run: ClassifierRun) -> None:
    (model,) = (model for model in MODELS_IN_METAFILE if model['Name'] == run.name)
    metadata, (result,) = model['Metadata'], model['Results']
    assert 'Weights' not in model  # none of our own
    assert result['Metrics'] == {'Top 1 Accuracy': run.accuracy}
    assert metadata['Results Source'] == 'Twins authors, arXiv:2104.13840, table 1'
    assert (metadata['Batch Size'], metadata['Epochs']) == (run.batch, run.epochs)
    assert metadata['Architecture'] == [f'Twins-{run.backbone.upper()}']
    assert metadata['Parameters'] == run.log_parameters
    if run.backbone.endswith('-s'):  # the test below counts all
        assert_counted(run, metadata)


def assert_counted(run: ClassifierRun, metadata: dict) -> None:
    total = count(on_meta(run), run.size, run.size).total
    assert metadata['Image Size'] == f'{run.size}x{run.size}'
    assert (metadata['Parameters'], metadata['FLOPs']) == (total.parameters, total.macs)
    assert metadata['FLOPs'] / 1e9 == pytest.approx(run.macs[0], abs=0.051)


@pytest.mark.slow
def test_the_metafile_states_the_costs_of_larger_models() -> None:
    for run, model in zip(RUNS, MODELS_IN_METAFILE, strict=True):
        assert_counted(run, model['Metadata'])


def test_there_is_one_config_and_one_entry_per_architecture() -> None:
    assert sorted(path.stem for path in FOLDER.glob('*.py')) == sorted(CLASSIFIERS)
    assert [model['Name'] for model in MODELS_IN_METAFILE] == list(CLASSIFIERS)
    for path in FOLDER.glob('*.py'):
        assert Config.fromfile(path).custom_imports == dict(imports=['mmtwins'], allow_failed_imports=False)


def test_the_architecture_of_the_docs_goes_from_a_classifier_to_a_segmentor(tmp_path: Path) -> None:
    page = (REPOSITORY / 'docs' / 'training.md').read_text().partition('## Pre-train an architecture of your own')[2]
    texts = re.findall(r'```python\n(.*?)```', page, re.DOTALL)[:2]
    checkpoint = re.search(r"checkpoint='(.*)'", texts[1])[1]
    assert re.fullmatch(r'work_dirs/own_classifier/best_accuracy_top1_epoch_\d+\.pth', checkpoint)
    configs = []
    for i, text in enumerate(texts):
        text = text.replace('mmtwins::', f'{REPOSITORY}/configs/').replace(checkpoint, str(tmp_path / 'best.pth'))
        (tmp_path / f'{i}.py').write_text(text)
        configs.append(Config.fromfile(tmp_path / f'{i}.py'))
    classifier = Classifier(configs[0]).eval()
    with torch.no_grad():
        assert classifier(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    torch.save({'state_dict': classifier.state_dict()}, tmp_path / 'best.pth')
    backbone = MODELS.build(configs[1].model.backbone)
    backbone.init_weights()
    weights = classifier.backbone.state_dict()
    for name, value in backbone.state_dict().items():
        fresh = torch.full_like(value, float(name.endswith('weight')))
        assert torch.equal(value, fresh if name.startswith('norm_list.') else weights[name]), name
    head, dims = configs[1].model.decode_head, configs[0].model.backbone.arch.embed_dims
    assert (tuple(head.in_channels), configs[1].model.auxiliary_head.in_channels) == (tuple(dims), dims[2])


def test_a_config_without_mmpretrain_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: None if name == 'mmpretrain' else find(name))
    with pytest.raises(
        ImportError, match=f'needs mmpretrain.*, not installed here: {re.escape(how_to_install("cls"))}'
    ):
        load_config(str(FOLDER / f'{RUNS[0].name}.py'))


def test_a_step_is_mixed_smoothed_clipped_and_decayed_as_written_out() -> None:
    """Mixup or CutMix, soft cross entropy of smoothed labels, clipping and AdamW, by their formulas."""
    need_mmpretrain()
    from mmtwins.engine.model import build_model

    cfg = load_tiny(FOLDER / f'{RUNS[0].name}.py')
    cfg.model.backbone.drop_path_rate = 0.0
    cfg.optim_wrapper.clip_grad.max_norm = 0.05  # below the norm
    classes, size = len(CLASSES), 32
    torch.manual_seed(1)
    model = build_model(cfg).train()
    model.init_weights()
    images, labels = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8), torch.tensor([0, 2, 1, 2])
    seen = set()
    for seed in range(4):
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        rate, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
        spared = {id(v) for n, v in model.named_parameters() if v.ndim == 1 or 'pos_block' in n}
        before = {name: value.detach().clone() for name, value in model.named_parameters()}

        np.random.seed(seed)
        torch.manual_seed(seed)
        is_cutmix = np.random.choice(2) == 1
        share = np.random.beta(*[1.0 if is_cutmix else 0.8] * 2)
        order = torch.randperm(4)
        mean, std = (torch.tensor(cfg.model.data_preprocessor[key]).view(3, 1, 1) for key in ('mean', 'std'))
        mixed = (images.flip(1).float() - mean) / std  # BGR to RGB
        other = mixed[order]
        if is_cutmix:
            side = int(size * np.sqrt(1 - share))
            y, x = np.random.randint(0, size), np.random.randint(0, size)
            rows, columns = (slice(max(p - side // 2, 0), min(p + side // 2, size)) for p in (y, x))
            mixed = mixed.clone()
            mixed[:, :, rows, columns] = other[:, :, rows, columns]
            share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
        else:
            mixed = share * mixed + (1 - share) * other
        on, off = 1 - 0.1 + 0.1 / classes, 0.1 / classes
        hard = torch.full((4, classes), off).scatter_(1, labels[:, None], on)
        target = share * hard + (1 - share) * hard[order]
        logits = model(mixed)
        expected = -(target * logits.log_softmax(1)).sum(1).mean()
        gradients = dict(zip(before, torch.autograd.grad(expected, list(model.parameters()))))
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        assert norm > 0.05

        np.random.seed(seed)
        torch.manual_seed(seed)
        from mmpretrain.structures import DataSample

        samples = [DataSample().set_gt_label(int(label)) for label in labels]
        loss = model.train_step(dict(inputs=list(images), data_samples=samples), optim_wrapper)['loss']
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
        for name, value in model.named_parameters():
            clipped = gradients[name] * 0.05 / (norm + 1e-6)
            decayed = before[name] * (1 - rate * (0.0 if id(value) in spared else decay))
            wanted = decayed - rate * clipped / (clipped.abs() + 1e-8)
            sure = clipped.abs() > 1e-6  # below, rounding decides the direction of a step
            assert torch.allclose(value.detach()[sure], wanted[sure], rtol=0, atol=1e-2 * rate), name
        seen.add(is_cutmix)
    assert seen == {True, False}
