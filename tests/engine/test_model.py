"""Models built from configs, and how often a start reads, fits and builds."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS, Registry
from mmengine.runner import Runner
from safetensors.torch import save
from server import COMMIT, Server

from mmtwins.engine.checks import check_checkpoints
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model, build_on_meta
from mmtwins.engine.runner import build_runner
from mmtwins.weights import fitting
from mmtwins.weights.converting import from_native
from mmtwins.weights.pretrained import IMAGENET, HubFile, WebFile

TINY = dict(embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2))
BACKBONE = dict(type='TwinsSVTBackbone', arch=TINY, window_sizes=(7, 7), sr_ratios=(2, 1), out_indices=(0, 1))
TOY_CONFIG = Path(__file__).parents[2] / 'configs/toy/upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'


@DATASETS.register_module()
class CountedImages(torch.utils.data.Dataset):
    """Two grey images."""

    metainfo: ClassVar[dict] = {}

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(inputs=torch.ones(3, 64, 64))


@METRICS.register_module()
class NoMetric(BaseMetric):
    """Counts images."""

    def process(self, data_batch: dict, data_samples: list) -> None:
        self.results += data_samples

    def compute_metrics(self, results: list) -> dict:
        return dict(number=len(results))


@MODELS.register_module()
class CountedDense(BaseModel):
    """A dense model in miniature."""

    def __init__(self, backbone: dict, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        self.conv_seg = torch.nn.Conv2d(16, 5, 1)

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> dict[str, torch.Tensor] | list:
        value = self.conv_seg(self.backbone(inputs)[-1]).mean()
        return dict(loss=value) if mode == 'loss' else [dict(value=value)]


def make_config(tmp_path: Path, init_cfg: dict | None = None, **kwargs) -> Config:
    loader = dict(
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='CountedImages'),
        collate_fn=dict(type='default_collate'),
    )
    return Config(
        dict(
            model=dict(type='CountedDense', backbone=dict(BACKBONE, init_cfg=init_cfg)),
            work_dir=str(tmp_path / 'work'),
            launcher='none',
            experiment_name=str(tmp_path).replace('/', '_'),  # MMEngine's loggers are found by it
            train_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=dict(type='NoMetric'),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            **kwargs,
        )
    )


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Reads of files, fits of backbones, and builds of whole models that take memory."""
    counts: Counter = Counter()

    def count(owner: object, name: str, kind: str, is_counted=lambda *args, **kwargs: True) -> None:
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[kind] += is_counted(*args, **kwargs)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def is_whole(registry: Registry, cfg: dict, *args, **kwargs) -> bool:
        return cfg.get('type') in ('CountedDense', 'EncoderDecoder') and not torch.empty(0).is_meta

    # Choosing the newest whole checkpoint leaves the tensors on the disk (mmap).
    count(torch, 'load', 'read', lambda *args, **kwargs: not kwargs.get('mmap'))
    count(fitting, '_fit_backbone', 'fit')
    count(Registry, 'build', 'build', is_whole)
    return counts


ONCE = dict(read=1, fit=1, build=1)


def make_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    cfg = Config(dict(model=dict(type='CountedDense', backbone=BACKBONE)))
    return {name: torch.randn(value.shape) for name, value in build_on_meta(cfg).state_dict().items()}


def log_of(tmp_path: Path) -> str:
    return ''.join(path.read_text() for path in (tmp_path / 'work').rglob('*.log'))


@pytest.mark.parametrize('fmt', ['native', 'mmseg'])
@pytest.mark.parametrize('way', ['load_from', 'init_cfg', 'prefix', 'init_cfg of the model'])
def test_training_starts_with_one_of_each(way: str, fmt: str, tmp_path: Path, counts: Counter) -> None:
    weights, path = make_weights(), str(tmp_path / 'a.pth')
    torch.save({'state_dict': from_native(weights, fmt)}, path)
    pretrained = dict(type='Pretrained', checkpoint=path)
    if way == 'load_from':
        cfg = make_config(tmp_path, load_from=path)
    elif way == 'init_cfg of the model':
        cfg = make_config(tmp_path)
        cfg.model.init_cfg = pretrained
    else:
        cfg = make_config(tmp_path, pretrained | (dict(prefix='backbone.') if way == 'prefix' else {}))
    runner = build_runner(cfg, check_checkpoints(cfg))
    runner.train()  # at a rate of 0
    assert counts == ONCE
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, weights[f'backbone.{name}']), name
    log = log_of(tmp_path)
    assert log.count('Twins checkpoint recognised as') == 1
    assert f'in {"native (official, timm)" if fmt == "native" else fmt} names' in log
    assert 'do not match exactly' not in log
    assert 'WARNING - conv_seg' not in log


@pytest.mark.parametrize('custom_hooks', [[], [dict(type='EMAHook')]])
def test_resuming_and_testing_start_with_one_of_each(custom_hooks: list[dict], tmp_path: Path, counts: Counter) -> None:
    cfg = make_config(tmp_path, custom_hooks=custom_hooks)
    build_runner(cfg).train()
    counts.clear()
    for path in (None, str(tmp_path / 'work/epoch_1.pth')):
        cfg = make_config(tmp_path, resume=True, load_from=path, custom_hooks=custom_hooks)
        cfg.train_cfg.max_epochs = 2
        runner = build_runner(cfg, check_checkpoints(cfg))
        runner.train()
        assert counts == ONCE
        assert runner.epoch == 2
        counts.clear()
        (tmp_path / 'work/last_checkpoint').write_text(str(tmp_path / 'work/epoch_1.pth'))
    cfg = make_config(tmp_path, load_from=str(tmp_path / 'work/epoch_1.pth'))
    build_runner(cfg, check_checkpoints(cfg, for_training=False)).test()
    assert counts == ONCE
    assert 'do not match exactly' not in log_of(tmp_path)


@pytest.fixture
def on_hub(hub: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the backbone of :func:`make_weights` as ``imagenet:tiny``."""
    weights = {k.removeprefix('backbone.'): v for k, v in make_weights().items() if k.startswith('backbone.')}
    sha256 = hub.hub('timm/tiny', save(weights))
    monkeypatch.setitem(IMAGENET, 'tiny', (HubFile('timm/tiny', COMMIT, sha256),))
    return hub


IMAGENET_INIT = dict(type='Pretrained', checkpoint='imagenet:tiny')


@pytest.mark.parametrize('is_checked', [True, False])
def test_a_training_from_imagenet_weights_fetches_them_once(
    is_checked: bool, tmp_path: Path, counts: Counter, on_hub: Server
) -> None:
    cfg = make_config(tmp_path, IMAGENET_INIT)
    runner = build_runner(cfg, check_checkpoints(cfg) if is_checked else None)
    assert len(on_hub.fetched) == is_checked  # building the model alone fetches nothing
    runner.train()  # at a rate of 0
    assert len(on_hub.fetched) == 1
    assert (counts['fit'], counts['build']) == (1, 1)
    for name, value in runner.model.backbone.state_dict().items():
        assert torch.equal(value, make_weights()[f'backbone.{name}']), name


@pytest.mark.parametrize('is_checked', [True, False])
def test_imagenet_weights_are_not_fetched_where_a_checkpoint_replaces_them(
    is_checked: bool, tmp_path: Path, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMAGENET, 'tiny', (WebFile(f'{hub.url}/absent-01234567.pth'),))
    weights = make_weights()
    torch.save(weights, tmp_path / 'a.pth')

    def start(folder: str, for_training: bool = True, **kwargs) -> Runner:
        cfg = make_config(tmp_path / folder, [dict(type='Constant', val=1, layer='Linear'), IMAGENET_INIT], **kwargs)
        cfg.train_cfg.max_epochs = 2 if kwargs.get('resume') else 1
        return build_runner(cfg, check_checkpoints(cfg, for_training) if is_checked else None)

    for model in (start('a', load_from=str(tmp_path / 'a.pth')).train(), start('a', resume=True).train()):
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name]), name
    start('a', for_training=False, load_from=str(tmp_path / 'a' / 'work' / 'epoch_2.pth')).test()
    start('b', for_training=False).test()
    assert hub.asked == hub.fetched == []
    with pytest.raises(OSError, match='checkpoint imagenet:tiny cannot be fetched'):
        start('c', resume=True).train()  # there is nothing to resume yet


def test_a_file_named_twice_is_read_for_each(tmp_path: Path, counts: Counter) -> None:
    weights, path = make_weights(), str(tmp_path / 'a.pth')
    torch.save(from_native(weights, 'mmseg'), path)
    cfg = make_config(tmp_path, dict(type='Pretrained', checkpoint=path), load_from=path)
    runner = build_runner(cfg, check_checkpoints(cfg))
    runner.train()
    assert counts['build'] == 1
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_runner_without_the_check_reads_and_fits_once(tmp_path: Path, counts: Counter) -> None:
    torch.save(from_native(make_weights(), 'mmseg'), tmp_path / 'a.pth')
    build_runner(make_config(tmp_path, load_from=str(tmp_path / 'a.pth'))).train()
    assert counts == ONCE


def test_nothing_is_left_of_a_model_of_another_size(tmp_path: Path) -> None:
    torch.save(make_weights(), tmp_path / 'a.pth')
    wide = dict(BACKBONE, arch=dict(TINY, embed_dims=(16, 32)))
    cfg = make_config(tmp_path, load_from=str(tmp_path / 'a.pth'))
    cfg.model.backbone = wide
    with pytest.raises(ValueError, match=r'a\.pth: no.*weight in the checkpoint fits the backbone'):
        check_checkpoints(cfg)
    assert not (tmp_path / 'work').exists()


def test_prediction_and_export_start_with_one_of_each(tmp_path: Path, counts: Counter) -> None:
    pytest.importorskip('mmseg')
    from mmtwins.export import build_exportable
    from mmtwins.inference.predictor import Predictor

    cfg = load_config(str(TOY_CONFIG))
    model = build_model(cfg)
    torch.save({'state_dict': from_native(model.state_dict(), 'mmseg'), 'meta': {}}, tmp_path / 'a.pth')
    for start in (
        lambda: Predictor(TOY_CONFIG, tmp_path / 'a.pth', 'cpu'),
        lambda: build_exportable(load_config(str(TOY_CONFIG)), str(tmp_path / 'a.pth')),
        lambda: build_exportable(load_config(str(TOY_CONFIG)), str(tmp_path / 'a.pth'), backbone_only=True),
    ):
        counts.clear()
        start()
        assert counts == ONCE


def test_models_are_built_in_the_scope_of_their_library() -> None:
    pytest.importorskip('mmseg')
    cfg = load_config(str(TOY_CONFIG))
    assert type(build_model(cfg)).__module__.startswith('mmseg.')
    assert type(build_model(cfg, cfg.model.decode_head)).__name__ == 'UPerHead'
    assert all(value.is_meta for value in build_on_meta(cfg).state_dict().values())


def test_a_constructor_that_reads_values_is_built_and_moved() -> None:
    class ReadsValues(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]
            self.fc = torch.nn.Linear(2, 2)

    model = build_on_meta(Config(dict(model=dict(type=ReadsValues))))
    assert model.fc.weight.is_meta
    assert model.rates == [0, 0.5, 1]
