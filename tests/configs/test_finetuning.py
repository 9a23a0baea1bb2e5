"""docs/finetuning.md: its two configs, as they stand there, train on folders laid out as it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmtwins.engine.checks import check_checkpoints
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model
from mmtwins.weights.converting import from_native
from mmtwins.weights.opening import read_file

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / 'docs' / 'finetuning.md').read_text()
SEGMENTATION, DETECTION = (
    re.search(rf'`configs/own/{name}\.py`.*?```python\n(.*?)```', DOCUMENT, re.DOTALL)[1]
    for name in ('segmentation', 'detection')
)
DIMS = [8, 16, 24, 32]
TINY = {
    'model.backbone.arch._delete_': True,
    'model.backbone.arch.embed_dims': DIMS,
    'model.backbone.arch.depths': [2, 2, 2, 2],
    'model.backbone.arch.num_heads': [1, 2, 3, 4],
    'model.backbone.arch.mlp_ratios': [2, 2, 2, 2],
}
TINY_SEGMENTOR = TINY | {
    'model.decode_head.in_channels': DIMS,
    'model.decode_head.channels': 16,
    'model.auxiliary_head.in_channels': DIMS[2],
    'model.auxiliary_head.channels': 16,
}
TINY_DETECTOR = TINY | {
    'model.neck.in_channels': DIMS,
    'model.roi_head.bbox_head.fc_out_channels': 32,
    'model.train_cfg.rpn_proposal.max_per_img': 50,
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn.max_per_img': 20,
}
SMALL_IMAGES = {
    'segmentation': {
        'model.data_preprocessor.size': (64, 64),
        'train_dataloader.dataset.pipeline.4.scale': (256, 128),
        'train_dataloader.dataset.pipeline.5.crop_size': (64, 64),
        'val_dataloader.dataset.pipeline.2.scale': (256, 128),
        'test_dataloader.dataset.pipeline.2.scale': (256, 128),
    },
    'detection': {
        f'{split}_dataloader.dataset.pipeline.{step}.scale': (128, 128)
        for split, step in (('train', 3), ('val', 2), ('test', 2))
    },
}
NO_WORKERS = {
    f'{split}_dataloader.{key}': value
    for split in ('train', 'val', 'test')
    for key, value in (('num_workers', 0), ('persistent_workers', False))
}
CallTool = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's configs with the document's two in ``configs/own``; the tools run where ``configs`` is."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # for models this small, threads cost the tools more than they gain
    (tmp_path / 'configs' / 'own').mkdir(parents=True)
    for folder in ('_base_', 'ade20k', 'coco'):
        (tmp_path / 'configs' / folder).symlink_to(REPOSITORY / 'configs' / folder)
    (tmp_path / 'configs' / 'own' / 'segmentation.py').write_text(SEGMENTATION)
    (tmp_path / 'configs' / 'own' / 'detection.py').write_text(DETECTION)
    return tmp_path / 'configs' / 'own'


def write_segmentation_data(toy: Path, root: Path, num_classes: int) -> None:
    """The toy scenes with the labels 0 to ``num_classes`` - 1 and 255, as the document lays folders out."""
    for theirs, ours in (('training', 'train'), ('validation', 'val')):
        shutil.copytree(toy / 'images' / theirs, root / 'images' / ours)
        (root / 'labels' / ours).mkdir(parents=True)
        for path in (toy / 'annotations' / theirs).iterdir():
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            own_labels = np.where(labels == 0, 255, (labels - 1) % num_classes).astype(np.uint8)
            cv2.imwrite(str(root / 'labels' / ours / path.name), own_labels)


def write_detection_data(toy: Path, root: Path, classes: tuple[str, ...]) -> None:
    """The toy scenes with categories of these names, as the document lays folders out."""
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        shutil.copytree(toy / f'{split}2017', root / split)
        content = json.loads((toy / 'annotations' / f'instances_{split}2017.json').read_text())
        content['categories'] = [dict(id=10 * i, name=name) for i, name in enumerate(classes)]
        for annotation in content['annotations']:
            annotation['category_id'] = 10 * (annotation['category_id'] % len(classes))
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


def recipe_of(config: Path) -> Path:
    """The recipe that a config inherits."""
    return config.parent / re.search(r"_base_ = '(.*?)'", config.read_text())[1]


def write_public_checkpoint(path: Path, config: Path, tiny: dict, fmt: str) -> dict[str, torch.Tensor]:
    """A checkpoint of the recipe that ``config`` inherits, classes included; returns its native state dict."""
    cfg = load_config(str(recipe_of(config)), tiny)
    torch.manual_seed(1)
    weights = build_model(cfg).state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value += 0.01 * torch.randn_like(value)  # so that not one weight is as initialised
    torch.save({'meta': {}, 'state_dict': from_native(weights, fmt)}, path)
    return weights


def options(*groups: dict, **others: object) -> list[str]:
    settings = {key: value for group in groups for key, value in group.items()} | others
    return ['--cfg-options', *(f'{key}={str(value).replace(" ", "")}' for key, value in settings.items())]


def check_weights(saved: dict, public: dict, own_heads: dict[str, int], max_step: float) -> None:
    """Frozen parts as published, the rest of the backbone a few small steps from there, heads of the own classes."""
    frozen = re.compile(r'backbone\.(patch_embeds|blocks|pos_block|norm_list)\.0\.')
    trained = {name for name in public if name.startswith('backbone.') and not frozen.match(name)}
    assert len([name for name in public if frozen.match(name)]) > 20
    for name in public:
        if frozen.match(name):
            assert torch.equal(saved[name], public[name]), name
    for name in trained:
        torch.testing.assert_close(saved[name], public[name], rtol=0, atol=max_step, msg=name)
    assert sum(not torch.equal(saved[name], public[name]) for name in trained) > len(trained) / 2
    for layer, outputs in own_heads.items():
        assert len(saved[f'{layer}.weight']) == outputs != len(public[f'{layer}.weight'])
    assert all(value.isfinite().all() for value in saved.values())


def losses(output: str) -> list[float]:
    return [float(loss) for loss in re.findall(r'(?:Iter|Epoch)\(train\).* loss: (\S+)', output)]


def test_configs_are_short_and_leave_nothing_of_the_other_data_set(own: Path) -> None:
    assert len(SEGMENTATION.splitlines()) < 30
    assert len(DETECTION.splitlines()) < 30
    for name, foreign in (('segmentation', '150|ADE20KDataset|annotations'), ('detection', '80|2017|data/coco')):
        cfg = load_config(str(own / f'{name}.py'))
        used = {key: cfg[key] for key in cfg if re.search('dataloader|evaluator|pipeline|model', key)}
        found = re.findall(rf'[^ ]*\b(?:{foreign})\b[^ ]*', str(used))
        assert not found, found
        base = load_config(str(recipe_of(own / f'{name}.py')))
        assert [step.type for step in cfg.train_dataloader.dataset.pipeline] == [
            step.type for step in base.train_dataloader.dataset.pipeline
        ]
    cfg = load_config(str(own / 'segmentation.py'))
    pipelines = [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')]
    pipelines.append([step for (step,) in cfg.tta_pipeline[-1].transforms[2:]])
    for pipeline in pipelines:
        types = [step.type for step in pipeline]
        (check,) = (step for step in pipeline if step.type == 'CheckLabels')
        assert (check.num_classes, check.ignore_label) == (len(cfg.classes), 255)
        assert types.index('LoadAnnotations') + 1 == types.index('CheckLabels')


def test_segmentation_config_trains_from_a_public_checkpoint_with_other_classes(
    own: Path, toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    config = own / 'segmentation.py'
    cfg = load_config(str(config))
    write_segmentation_data(toy_data / 'ade', tmp_path / cfg.data_root, len(cfg.classes))
    public = write_public_checkpoint(tmp_path / cfg.load_from, config, TINY_SEGMENTOR, 'mmseg')
    settings = (TINY_SEGMENTOR, SMALL_IMAGES['segmentation'], NO_WORKERS)
    short = {'train_cfg.max_iters': 3, 'train_cfg.val_interval': 3, 'default_hooks.logger.interval': 1}
    result = call_tool('train.py', config, *options(*settings, short))
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'recognised as whole model in mmseg names' in output
    line = (
        f'decode_head.conv_seg: 150 outputs in the checkpoint, {len(cfg.classes)} in the model (another number of '
        'classes), re-initialised'
    )
    assert f'\n{line}\n' in DOCUMENT
    assert line in output
    assert line.replace('decode_head', 'auxiliary_head') in output
    assert 'auto_scale_lr.base_batch_size' not in output  # no warning: the rate is for this batch
    assert len(losses(output)) == 3
    assert np.isfinite(losses(output)).all()
    (best,) = (tmp_path / 'work_dirs' / 'segmentation').glob('best_mIoU_iter_*.pth')
    saved = read_file(best)['state_dict']
    heads = {f'{head}.conv_seg': len(cfg.classes) for head in ('decode_head', 'auxiliary_head')}
    check_weights(saved, public, heads, max_step=3 * cfg.optim_wrapper.optimizer.lr)
    tested = call_tool('test.py', config, best, *options(*settings))
    assert tested.returncode == 0, tested.stderr
    reported = tested.stdout + tested.stderr
    assert re.findall(r'mIoU: ([\d.]+)  ', reported)[-1] == re.findall(r'mIoU: ([\d.]+)  ', output)[-1]
    assert all(re.search(rf'\| +{name} +\|', reported) for name in cfg.classes)


@pytest.mark.slow
def test_detection_config_trains_from_a_public_checkpoint_with_other_classes(
    own: Path, toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    config = own / 'detection.py'
    cfg = load_config(str(config))
    write_detection_data(toy_data / 'coco', tmp_path / cfg.data_root, cfg.classes)
    public = write_public_checkpoint(tmp_path / cfg.load_from, config, TINY_DETECTOR, 'native')
    settings = (TINY_DETECTOR, SMALL_IMAGES['detection'], NO_WORKERS)
    short = {'train_cfg.max_epochs': 1, 'default_hooks.logger.interval': 1}
    result = call_tool('train.py', config, *options(*settings, short))
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'recognised as whole model in native (official, timm) names' in output
    heads = {'bbox_head.fc_cls': (81, len(cfg.classes) + 1), 'bbox_head.fc_reg': (320, 4 * len(cfg.classes))}
    heads['mask_head.conv_logits'] = (80, len(cfg.classes))
    for layer, (theirs, ours) in heads.items():
        assert (
            f'roi_head.{layer}: {theirs} outputs in the checkpoint, {ours} in the model (another number of classes), '
            're-initialised'
        ) in output
    assert 'auto_scale_lr.base_batch_size' not in output
    assert len(losses(output)) == 2  # 8 images, 4 a batch
    assert np.isfinite(losses(output)).all()
    saved = read_file(tmp_path / 'work_dirs' / 'detection' / 'epoch_1.pth')['state_dict']
    own_heads = {f'roi_head.{layer}': ours for layer, (_, ours) in heads.items()}
    check_weights(saved, public, own_heads, max_step=2 * cfg.optim_wrapper.optimizer.lr)
    tested = call_tool('test.py', config, tmp_path / 'work_dirs' / 'detection' / 'epoch_1.pth', *options(*settings))
    assert tested.returncode == 0, tested.stderr
    found = [re.findall(r'coco/bbox_mAP: (\S+)', text)[-1] for text in (output, tested.stdout + tested.stderr)]
    assert found[0] == found[1]


@pytest.mark.parametrize(('name', 'tiny'), [('segmentation', TINY_SEGMENTOR), ('detection', TINY_DETECTOR)])
def test_imagenet_weights_take_the_place_of_a_whole_model(name: str, tiny: dict, own: Path, tmp_path: Path) -> None:
    """The document's other start: the line of load_from goes, init_cfg comes where frozen_stages was."""
    snippet = re.search(r"`(init_cfg=dict\(checkpoint='(.*?)'\))`", DOCUMENT)
    config = own / f'{name}.py'
    text = re.sub(r'load_from = .*\n', '', config.read_text())
    config.write_text(text)
    assert load_config(str(config)).model.backbone.init_cfg.checkpoint == 'imagenet:svt-small'
    text = text.replace('frozen_stages=0', snippet[1])
    public = write_public_checkpoint(tmp_path / 'whole.pth', config, tiny, 'native')
    config.write_text(text.replace(snippet[2], str(tmp_path / snippet[2])))
    classifier = {k.removeprefix('backbone.'): v for k, v in public.items() if k.startswith('backbone.')}
    norms = {k: v for k, v in classifier.items() if k.startswith('norm_list.')}
    classifier = {k: v for k, v in classifier.items() if k not in norms}
    classifier |= {'norm.weight': norms['norm_list.3.weight'], 'norm.bias': norms['norm_list.3.bias']}
    classifier |= {'head.weight': torch.zeros(1000, DIMS[3]), 'head.bias': torch.zeros(1000)}
    torch.save(classifier, tmp_path / snippet[2])
    cfg = load_config(str(config), tiny)
    cfg.update(work_dir=str(tmp_path / 'work'), launcher='none')
    check_checkpoints(cfg)
    model = build_model(cfg)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        if name not in norms:
            assert torch.equal(value, classifier[name]), name


@pytest.mark.slow
def test_configs_are_the_same_outside_the_checkout_with_an_installed_package(own: Path, tmp_path: Path) -> None:
    site = tmp_path / 'site'
    shutil.copytree(REPOSITORY / 'mmtwins', site / 'mmtwins', ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    shutil.copytree(REPOSITORY / 'configs', site / 'mmtwins' / '.mim' / 'configs')
    shutil.copy(REPOSITORY / 'model-index.yml', site / 'mmtwins' / '.mim')
    (site / 'mmtwins-0.1.0.dist-info').mkdir()
    (site / 'mmtwins-0.1.0.dist-info' / 'METADATA').write_text('Metadata-Version: 2.1\nName: mmtwins\nVersion: 0.1.0\n')
    for name in ('segmentation', 'detection'):
        (tmp_path / f'{name}.py').write_text((own / f'{name}.py').read_text().replace("'../", "'mmtwins::", 1))
    code = (
        'from mmtwins.engine.config import load_config\n'
        'for name in ("segmentation", "detection"):\n'
        '    cfgs = [load_config(f"{folder}{name}.py")._cfg_dict.to_dict() for folder in ("", "configs/own/")]\n'
        '    print(cfgs[0] == cfgs[1])\n'
    )
    env = {**os.environ, 'PYTHONPATH': str(site), 'PYTHONWARNINGS': 'ignore'}
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.stdout.split() == ['True', 'True'], result.stderr


def test_links_and_commands_exist() -> None:
    for target in re.findall(r'\]\((?!https?://)([^)#]+)', DOCUMENT):
        assert (REPOSITORY / 'docs' / target).exists(), target
    for path in re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh)', DOCUMENT):
        assert path.startswith('configs/own/') or (REPOSITORY / path).is_file(), path
    for name in re.findall(r'(?:upernet|fpn|mask-rcnn|retinanet)_[\w-]+\.py', DOCUMENT):
        assert list((REPOSITORY / 'configs').glob(f'*/{name}')), name


def test_table_gives_the_rates_and_heads_of_every_recipe() -> None:
    def heads_with_classes(part: dict, path: str = '') -> set[str]:
        inner = (heads_with_classes(value, f'{path}.{key}') for key, value in part.items() if isinstance(value, dict))
        return set().union({path.strip('.')} if 'num_classes' in part else set(), *inner)

    rows = re.findall(
        r'^\| `([\w*-]+\.py)` \| ([\d.e-]+)(?:; PCPVT-S: ([\d.e-]+).*?)? \| (.*) \|$', DOCUMENT, re.MULTILINE
    )
    seen = set()
    for pattern, rate, pcpvt_s_rate, heads in rows:
        for path in (REPOSITORY / 'configs').glob(f'[ac]*/{pattern}'):
            cfg = load_config(str(path))
            per_16 = cfg.optim_wrapper.optimizer.lr * 16 / cfg.auto_scale_lr.base_batch_size
            expected = pcpvt_s_rate if pcpvt_s_rate and 'pcpvt-s' in path.name else rate
            assert per_16 == pytest.approx(float(expected)), path.name
            assert heads_with_classes(cfg.model) == set(re.findall('`(.*?)`', heads)), path.name
            seen.add(path)
    assert seen == {path for folder in ('ade20k', 'coco') for path in (REPOSITORY / 'configs' / folder).glob('*.py')}


def test_the_three_lines_for_mixed_precision_fit_a_config_of_mmdet(tmp_path: Path) -> None:
    from mmdet.models import RPNHead, SingleRoIExtractor

    lines = re.search(r'### Mixed precision.*?```python\n(.*?)```', DOCUMENT, re.DOTALL)[1]
    assert lines.count('\n') == 3
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_amp-1x_coco.py'\n{lines}")
    cfg = load_config(str(path))
    with torch.device('meta'):
        model = build_model(cfg)
    assert (type(model.rpn_head).__name__, isinstance(model.rpn_head, RPNHead)) == ('Float32RPNHead', True)
    for extractor, size in ((model.roi_head.bbox_roi_extractor, 7), (model.roi_head.mask_roi_extractor, 14)):
        assert (type(extractor).__name__, isinstance(extractor, SingleRoIExtractor)) == ('Float32RoIExtractor', True)
        assert extractor.roi_layers[0].output_size == (size, size)
