"""Both tasks on several processes, connected by gloo: they train, validate, save, resume and test as one process does."""

import pickle
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from processes import run_processes
from recipes import CONFIGS
from tiny import assert_equal

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip('needs a PyTorch with gloo', allow_module_level=True)

from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from shrunk import load_shrunk
from torch import Tensor, nn

from mmtwins.engine.distributed import prepare_processes
from mmtwins.engine.model import build_model
from mmtwins.engine.runner import build_runner
from mmtwins.models.layers import DropPath

SEGMENTOR = CONFIGS / 'ade20k' / 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
DETECTOR = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py'


CallTool = Callable[..., subprocess.CompletedProcess]


class Recorder(Hook):
    """Keeps what a process has drawn at random, and what came of it."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.images: list[str] = []
        self.augmented: list[tuple] = []
        self.dropped: list[list[bool]] = []
        self.losses: list[float] = []
        self.metrics: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        for module in runner.model.modules():
            if isinstance(module, DropPath) and module.rate:
                module.register_forward_hook(self._note_dropped)

    def _note_dropped(self, module: nn.Module, args: tuple, out: Tensor) -> None:
        if module.training:
            self.dropped.append([not sample.any() for sample in out])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.seeds.append(torch.initial_seed())
        for image, sample in zip(data_batch['inputs'], data_batch['data_samples']):
            self.images.append(Path(sample.img_path).name)
            self.augmented.append((sample.flip, int(image.sum())))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.losses.append(outputs['loss'].item())

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.metrics = metrics


def train(path: Path, data: Path, work_dir: Path, options: dict) -> dict[str, Any]:
    """In each process."""
    cfg = load_shrunk(path, data, work_dir, **options)
    runner = build_runner(cfg)
    recorder = Recorder()
    runner.register_hook(recorder, 'LOW')
    runner.train()
    weights = {name: value.detach().clone() for name, value in runner.model.module.named_parameters()}
    return {**vars(recorder), 'weights': weights}


def save_finding_detector(data: Path, folder: Path) -> str:
    """Random weights with which the detector finds boxes, as fresh heads do not."""
    model = build_model(load_shrunk(DETECTOR, data, folder))
    torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=2.0)
    torch.save(dict(state_dict=model.state_dict(), meta={}), folder / 'start.pth')
    return str(folder / 'start.pth')


def run_tool(name: str, *args: object) -> None:
    """In each process: run a tool as torchrun does."""
    sys.argv = [name, *map(str, args)]
    runpy.run_path(str(CONFIGS.parent / 'tools' / name), run_name='__main__')


def read_metrics(log: str, split: str = 'test') -> str:
    """What an evaluation printed last, but times."""
    return re.findall(rf'Iter\({split}\).*?  ( *\S+: [-\d.]+  .*?)data_time', log)[-1]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ('path', 'first', 'second'), [(SEGMENTOR, 2, 4), (DETECTOR, 4, 2)], ids=['segmentor', 'detector']
)
def test_processes_train_validate_save_resume_and_test(
    path: Path, first: int, second: int, toy_data: Path, tmp_path: Path, call_tool: CallTool
) -> None:
    work_dir = tmp_path / 'work'
    options: dict[str, object] = {'launcher': 'pytorch', 'train_cfg.val_interval': 2}
    if path == DETECTOR:
        options['load_from'] = save_finding_detector(toy_data, tmp_path)
    trained = run_processes(first, tmp_path / 'train', train, path, toy_data, work_dir, options)
    assert not re.search('unused param|find_unused', (tmp_path / 'train' / '0.txt').read_text().split('after_run')[-1])
    assert len({seed for process in trained for seed in process['seeds']}) == 2 * first
    for one, other in pairwise(trained):
        assert_equal(one['weights'], other['weights'])
        assert one['augmented'] != other['augmented']
        assert one['dropped'] != other['dropped']
        assert one['metrics'] == trained[0]['metrics'] != {}
    images = [image for process in trained for image in process['images']]
    assert len(images) == 4 * first
    if first == 2:
        assert len(set(images)) == len(images)
        options.update(load_from=str(work_dir / 'iter_1.pth'), resume=True)
        again = run_processes(first, tmp_path / 'again', train, path, toy_data, tmp_path / 'other', options)
        for one, other in zip(trained, again):
            assert_equal(one.pop('weights'), other.pop('weights'))
            assert one.pop('metrics') == other.pop('metrics')
            for key in (
                'seeds',
                'images',
                'augmented',
                'dropped',
                'losses',
            ):  # the second iteration alone is trained again
                assert one[key][len(one[key]) // 2 :] == other[key] != [], key

    launcher = 'pytorch' if path == SEGMENTOR else 'slurm'
    load_shrunk(path, toy_data, work_dir, 3, **{'train_cfg.val_interval': 3}).dump(tmp_path / 'config.py')
    command = ['train.py', tmp_path / 'config.py', '--launcher', launcher, '--resume']
    run_processes(second, tmp_path / 'resume', run_tool, *command)
    log = (tmp_path / 'resume' / '0.txt').read_text()
    assert 'resumed epoch: 0, iter: 2' in log
    assert len(re.findall(r'Iter\(train\)', log)) == 1
    metrics = read_metrics(log, 'val')
    assert len(re.findall(r'\S+: -?[\d.]+', metrics)) >= 3

    out = 'predictions.pkl' if path == DETECTOR else 'predictions'
    command = ['test.py', tmp_path / 'config.py', work_dir / 'iter_3.pth', '--out']
    alone = call_tool(*command, tmp_path / 'alone' / out, '--work-dir', tmp_path / 'test')
    assert read_metrics(alone.stdout) == metrics
    # Three processes evaluate four images, so two of them get one twice.
    run_processes(3, tmp_path / 'test', run_tool, *command, tmp_path / 'many' / out, '--launcher', launcher)
    assert read_metrics((tmp_path / 'test' / '0.txt').read_text()) == metrics
    if path == SEGMENTOR:
        assert read_files(tmp_path / 'many' / out) == read_files(tmp_path / 'alone' / out)
        return
    predictions = [pickle.loads((tmp_path / folder / out).read_bytes()) for folder in ('many', 'alone')]
    for many, one in zip(*predictions, strict=True):
        assert many['img_id'] == one['img_id']
        assert_equal(
            *({key: pred['pred_instances'][key] for key in ('bboxes', 'scores', 'labels')} for pred in (many, one))
        )


def step(path: Path, data: Path, work_dir: Path, launcher: str) -> tuple[float, dict[str, Tensor]]:
    """A step of SGD, in each process on its share of four images; returns the loss and the weights."""
    cfg = load_shrunk(path, data, work_dir, launcher=launcher)
    norm = dict(type='GN', num_groups=2)
    cfg.model.decode_head.norm_cfg = cfg.model.auxiliary_head.norm_cfg = norm
    cfg.model.decode_head.dropout_ratio = cfg.model.auxiliary_head.dropout_ratio = 0.0
    cfg.model.backbone.drop_path_rate = 0.0
    prepare_processes(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 9, (1, 64, 64)))) for _ in range(4)]
    inputs = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(4)]
    rank, world_size = 0, 1
    if launcher != 'none':
        from mmengine.registry import MODEL_WRAPPERS

        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        model = MODEL_WRAPPERS.build({**cfg.model_wrapper_cfg, 'module': model})
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), clip_grad=dict(max_norm=1.0))
    log = model.train_step(
        dict(inputs=inputs[rank::world_size], data_samples=samples[rank::world_size]), optim_wrapper=optimizer
    )
    return log['loss'].item(), {
        name.removeprefix('module.'): value.detach() for name, value in model.named_parameters()
    }


@pytest.mark.parametrize('world_size', [2, 4])
def test_a_step_equals_that_of_one_process_on_the_whole_batch(world_size: int, toy_data: Path, tmp_path: Path) -> None:
    loss, weights = step(SEGMENTOR, toy_data, tmp_path, 'none')
    results = run_processes(world_size, tmp_path / 'many', step, SEGMENTOR, toy_data, tmp_path, 'pytorch')
    assert sum(loss for loss, _ in results) / world_size == pytest.approx(loss, rel=1e-5)
    for _, given in results:
        assert given.keys() == weights.keys()
        torch.testing.assert_close(given, weights, rtol=1e-4, atol=1e-6)
