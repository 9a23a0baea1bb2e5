"""Both tasks through the tools on generated data: train, checkpoint, resume, test, and what happens on bad input."""

import fcntl
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from server import Server

from mmtwins.engine.config import load_config
from mmtwins.engine.reading import DataFileWarning
from mmtwins.engine.runner import build_runner
from mmtwins.engine.start import FROM_SCRATCH
from mmtwins.weights.opening import read_file
from mmtwins.weights.pretrained import IMAGENET, WebFile

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

CONFIGS = Path(__file__).parents[2] / 'configs'
(SEG_CONFIG,) = (CONFIGS / 'toy').glob('upernet*.py')
(DET_CONFIG,) = (CONFIGS / 'toy').glob('mask-rcnn*.py')
CallTool = Callable[..., subprocess.CompletedProcess]


def options(data_root: Path, max_iters: int = 2, **kwargs) -> list[str]:
    settings = {
        'data_root': data_root,
        'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': max_iters,
        'train_cfg.val_interval': 100,
        'default_hooks.checkpoint.interval': 1,
        'default_hooks.logger.interval': 1,
        **kwargs,
    }
    return ['--cfg-options', *(f'{key}={value}' for key, value in settings.items())]


@pytest.fixture(scope='module', params=['segmentation', pytest.param('detection', marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> tuple:
    """(config, data root, work directory after two iterations, a fresh folder)"""
    config, data = (SEG_CONFIG, 'ade') if request.param == 'segmentation' else (DET_CONFIG, 'coco')
    folder = tmp_path_factory.mktemp(request.param)
    work_dir = folder / 'work'
    cfg = load_config(str(config), {'data_root': str(toy_data / data), 'train_dataloader.batch_size': 2})
    cfg.train_cfg.update(max_iters=2, val_interval=100)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    cfg.update(work_dir=str(work_dir), launcher='none')
    build_runner(cfg).train()
    return config, toy_data / data, work_dir, folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


class Recorder(Hook):
    """Keeps what a Runner starts from."""

    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if not hasattr(self, 'iteration'):
            self.iteration = runner.iter
            self.rate = runner.optim_wrapper.get_lr()['lr'][0]
            self.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}
            state = runner.optim_wrapper.state_dict()['state']
            self.moments = {k: (v['step'].item(), v['exp_avg'].clone()) for k, v in state.items()}


def test_resume_continues_at_the_iteration_with_the_same_optimizer_state(trained: tuple, tmp_path: Path) -> None:
    config, data_root, work_dir, _ = trained
    shutil.copytree(work_dir, tmp_path / 'work')
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(tmp_path / 'work' / 'iter_2.pth'))
    cfg = load_config(str(config), {'data_root': str(data_root), 'train_dataloader.batch_size': 2})
    cfg.train_cfg.update(max_iters=3, val_interval=100)
    cfg.update(work_dir=str(tmp_path / 'work'), launcher='none', resume=True)
    recorder = Recorder()
    runner = build_runner(cfg)
    runner.register_hook(recorder)
    runner.train()
    checkpoint = read_file(work_dir / 'iter_2.pth')
    assert recorder.iteration == 2
    assert runner.iter == 3
    for name, value in checkpoint['state_dict'].items():
        assert torch.equal(recorder.weights[name], value), name
    saved = checkpoint['optimizer']['state']
    assert len(saved) == len(recorder.moments) > 50
    for index, (step, exp_avg) in recorder.moments.items():
        assert step == saved[index]['step'] == 2
        assert torch.equal(exp_avg, saved[index]['exp_avg'])
    warm_up = cfg.param_scheduler[0]
    factor = warm_up.start_factor + (1 - warm_up.start_factor) * 2 / (warm_up.end - warm_up.begin - 1)
    assert recorder.rate == pytest.approx(cfg.optim_wrapper.optimizer.lr * factor)


@pytest.mark.no_cover  # which slows the compiler's own Python down
@pytest.mark.slow
def test_a_compiled_model_has_the_same_losses(trained: tuple, tmp_path: Path) -> None:
    config, data_root, *_ = trained
    if config != SEG_CONFIG:
        pytest.skip('two-stage detectors choose numbers of boxes in Python, which no compiler follows')
    losses = []
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for i, compiled in enumerate([False, dict(backend='eager')]):
        cfg = load_config(str(config), {'data_root': str(data_root), 'train_dataloader.batch_size': 2})
        cfg.model.backbone.arch.depths = (1, 1, 1, 1)  # compiles in less time
        cfg.train_cfg.update(max_iters=2, val_interval=100)
        cfg.default_hooks.logger.interval = 1
        cfg.update(work_dir=str(tmp_path / str(i)), launcher='none', compile=compiled)
        cfg.experiment_name = f'{tmp_path.name}_{i}'  # else two runs of one second share their message hub
        runner = build_runner(cfg)
        runner.train()
        losses.append(runner.message_hub.get_scalar('train/loss').data[0])
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert len(losses[0]) == 2


def test_train_and_resume_from_the_command_line(trained: tuple, call_tool: CallTool, tmp_path: Path) -> None:
    config, data_root, *_ = trained
    work_dir = tmp_path / 'work'
    first = call_tool('train.py', config, '--work-dir', work_dir, *options(data_root, 1))
    assert first.returncode == 0, first.stderr
    losses = [float(loss) for loss in re.findall(r'Iter\(train\).* loss: ([\d.]+)', first.stdout + first.stderr)]
    assert len(losses) == 1
    assert np.isfinite(losses[0])
    second = call_tool('train.py', config, '--work-dir', work_dir, '--resume', *options(data_root, 2))
    assert second.returncode == 0, second.stderr
    output = second.stdout + second.stderr
    assert 'resumed epoch: 0, iter: 1' in output
    assert len(re.findall(r'Iter\(train\)', output)) == 1
    assert (work_dir / 'iter_2.pth').is_file()


def test_the_cpu_is_used_where_it_is_asked_for(
    toy_data: Path, call_tool: CallTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with a GPU, which MMEngine would take."""
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cuda')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
    depths = {'model.backbone.arch.depths': '(1,1,1,1)'}
    chosen = ['--device', 'cpu', *options(toy_data / 'ade', 1, **depths)]
    done = call_tool('train.py', SEG_CONFIG, '--work-dir', tmp_path / 'work', *chosen)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / 'work' / 'iter_1.pth'
    done = call_tool('test.py', SEG_CONFIG, checkpoint, '--work-dir', tmp_path / 'test', *chosen)
    assert done.returncode == 0 and 'mIoU: ' in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize('command', [['train.py', SEG_CONFIG], ['test.py', SEG_CONFIG, 'x.pth']])
def test_a_gpu_that_is_not_there_is_refused(command: list, call_tool: CallTool, tmp_path: Path) -> None:
    device = 'cuda:99' if torch.cuda.is_available() else 'cuda'
    done = call_tool(*command, '--device', device, '--work-dir', tmp_path / 'work')
    assert done.returncode == 1
    assert re.fullmatch(rf"error: device '{device}' cannot be used here \(.+\): take cpu.*\n", done.stderr)
    assert not (tmp_path / 'work').exists()


@pytest.fixture
def imagenet(hub: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Options by which a toy recipe starts from ``imagenet:toy``, which no server has."""
    monkeypatch.setitem(IMAGENET, 'toy', (WebFile(f'{hub.url}/toy-01234567.pth'),))
    return {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'imagenet:toy'}


def test_imagenet_weights_out_of_reach_end_in_one_line_or_a_start_from_scratch(
    trained: tuple, call_tool: CallTool, tmp_path: Path, imagenet: dict[str, str], hub: Server
) -> None:
    config, data_root, *_ = trained
    command = ['train.py', config, '--work-dir', tmp_path / 'work', *options(data_root, 1, **imagenet)]
    refused = call_tool(*command)
    assert refused.returncode == 1
    (line,) = (line for line in refused.stderr.splitlines() if line.startswith('error: '))
    assert line.startswith('error: checkpoint imagenet:toy cannot be fetched: no source has the right file')
    assert 'init_cfg.checkpoint=FILE' in line
    assert '--from-scratch' in line
    assert 'Traceback' not in refused.stderr
    assert not (tmp_path / 'work').exists()
    hub.fetched.clear()
    result = call_tool(*command, '--from-scratch')
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert 'WARNING - --from-scratch: no ImageNet weights.' in output
    assert 'The published numbers will not come' in output
    (log,) = (tmp_path / 'work').rglob('*.log')
    assert FROM_SCRATCH in log.read_text()
    assert hub.fetched == []
    assert (
        'from-scratch' not in call_tool('train.py', config, '--work-dir', tmp_path / 'b', *options(data_root, 1)).stdout
    )


def test_tools_without_training_fetch_no_imagenet_weights(
    trained: tuple, call_tool: CallTool, tmp_path: Path, imagenet: dict[str, str], hub: Server
) -> None:
    config, data_root, work_dir, _ = trained
    (image, *_) = (path for path in data_root.rglob('*.jpg'))
    chosen = ['--cfg-options', f'data_root={data_root}', *(f'{key}={value}' for key, value in imagenet.items())]
    checkpoint = work_dir / 'iter_2.pth'
    for command in (
        ['test.py', config, checkpoint, '--work-dir', tmp_path / 'test'],
        ['train.py', config, '--resume', checkpoint, '--work-dir', tmp_path / 'work'],
        ['infer.py', config, checkpoint, image, '--out', tmp_path / 'out'],
        ['get_complexity.py', config, '--size', '128'],
    ):
        result = call_tool(*command, *chosen, *(['train_cfg.max_iters=2'] if command[0] == 'train.py' else []))
        assert result.returncode == 0, result.stdout + result.stderr
    assert hub.asked == hub.fetched == []


def test_test_evaluates_paints_and_writes_predictions(trained: tuple, call_tool: CallTool, tmp_path: Path) -> None:
    config, data_root, work_dir, _ = trained
    is_detection = config == DET_CONFIG
    out = tmp_path / ('predictions.pkl' if is_detection else 'predictions')
    result = call_tool(
        'test.py', config, work_dir / 'iter_2.pth', '--work-dir', tmp_path / 'test', '--show-dir', tmp_path / 'show',
        '--out', out, '--cfg-options', f'data_root={data_root}',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert ('coco/segm_mAP_50:' if is_detection else 'mIoU:') in result.stdout + result.stderr
    painted = [path for path in (tmp_path / 'show').rglob('*') if path.suffix in ('.png', '.jpg')]
    assert len(painted) == 4
    assert all(cv2.imread(str(path)).std() > 0 for path in painted)
    if is_detection:
        predictions = pickle.loads(out.read_bytes())
        assert len(predictions) == 4
        assert {'bboxes', 'scores', 'labels', 'masks'} <= set(predictions[0]['pred_instances'])
    else:
        images = sorted(out.glob('*.png'))
        assert len(images) == 4
        num_classes = load_config(str(config)).model.decode_head.num_classes
        labels = cv2.imread(str(images[0]), cv2.IMREAD_UNCHANGED)
        assert 1 <= labels.min() <= labels.max() <= num_classes  # as in the annotations, where 0 is other


@pytest.mark.slow
def test_published_config_loses_syncbn_without_distribution_and_tests_at_several_scales(
    toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    config = tmp_path / 'small.py'
    small = dict(embed_dims=(8, 8, 8, 8), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
    config.write_text(
        f"_base_ = '{CONFIGS}/ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'\n"
        f'model = dict(backbone=dict(arch=dict(_delete_=True, **{small})),\n'
        '    decode_head=dict(in_channels=[8, 8, 8, 8], channels=8), auxiliary_head=dict(in_channels=8, channels=8))\n'
    )
    cfg = load_config(str(config), {'data_root': str(toy_data / 'ade')})
    cfg.update(work_dir=str(tmp_path / 'work'), launcher='none')
    runner = build_runner(cfg)
    norms = [m for m in runner.model.modules() if 'BatchNorm' in type(m).__name__]
    assert len(norms) > 5
    assert not any(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    log = next((tmp_path / 'work').glob('*/*.log')).read_text()
    assert len(re.findall('SyncBN.* will be automatically reverted to BatchNormXd', log)) == 1
    torch.save({'state_dict': runner.model.state_dict(), 'meta': {}}, tmp_path / 'a.pth')
    result = call_tool(
        'test.py',
        config,
        tmp_path / 'a.pth',
        '--tta',
        '--cfg-options',
        f'data_root={toy_data / "ade"}',
        'test_dataloader.dataset.indices=1',
    )
    assert result.returncode == 0, result.stderr
    assert re.search(r'Iter\(test\) \[1/1\].*mIoU: [\d.]+', result.stdout + result.stderr)


def test_tta_is_refused_where_the_config_has_none(call_tool: CallTool, tmp_path: Path) -> None:
    result = call_tool('test.py', CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py', 'a.pth', '--tta')
    assert result.returncode == 1
    assert 'has no tta_model and tta_pipeline (MMDetection 3.3 has none for masks)' in result.stderr
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('trained', ['segmentation'], indirect=True)
def test_foreign_missing_and_dangerous_checkpoints_leave_the_work_directory_alone(
    trained: tuple, call_tool: CallTool, tmp_path: Path
) -> None:
    config, data_root, work_dir, _ = trained
    before = read_files(work_dir)
    witness = tmp_path / 'witness'

    class RunsCommand:
        def __reduce__(self) -> tuple:
            return os.system, (f'touch {witness}',)

    torch.save({'state_dict': {'conv1.weight': torch.zeros(1)}}, tmp_path / 'foreign.pth')
    torch.save({'state_dict': {}, 'meta': RunsCommand()}, tmp_path / 'evil.pth')
    for name, message in [
        ('absent.pth', 'does not exist'),
        ('foreign.pth', 'no weight in the checkpoint fits the backbone'),
        ('evil.pth', 'is refused: besides weights it holds posix.system, which could run code'),
    ]:
        result = call_tool(
            'test.py', config, tmp_path / name, '--work-dir', work_dir, '--cfg-options', f'data_root={data_root}'
        )
        assert result.returncode == 1
        assert f'error: checkpoint {tmp_path / name}' in result.stderr
        assert message in result.stderr
        assert 'Traceback' not in result.stderr
    assert not witness.exists()
    assert read_files(work_dir) == before


@pytest.mark.parametrize('trained', ['segmentation'], indirect=True)
def test_missing_data_config_and_wrong_arguments_leave_the_work_directory_alone(
    trained: tuple, call_tool: CallTool, tmp_path: Path
) -> None:
    config, data_root, work_dir, _ = trained
    before = {name: content for name, content in read_files(work_dir).items() if name.endswith('.pth')}
    for arguments, message in [
        ([config, *options(tmp_path / 'nowhere')], f'needs {tmp_path}/nowhere/images/training, which does not exist'),
        (['absent.py'], 'config absent.py does not exist'),
        ([config, *options(data_root, **{'model.backbone.window_padding': 'x'})], "window_padding='x' is unknown"),
        ([config, '--resume', tmp_path / 'a.pth', *options(data_root)], 'a.pth does not exist'),
        ([config, '--amp', *options(data_root)], '--amp needs a GPU'),
    ]:
        if '--amp' in arguments and torch.cuda.is_available():
            continue
        result = call_tool('train.py', *arguments, '--work-dir', work_dir)
        assert result.returncode == 1
        assert 'error: ' in result.stderr
        assert message in result.stderr
        assert 'Traceback' not in result.stderr
    after = {name: content for name, content in read_files(work_dir).items() if name.endswith('.pth')}
    assert after == before


def damage_label_value(image: Path, labels: Path) -> str:
    pixels = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)
    pixels[5, 5] = 200
    cv2.imwrite(str(labels), pixels)
    return rf'{labels.name} has the label 200, but labels go from 0 to \d+'


def shrink_labels(image: Path, labels: Path) -> str:
    cv2.imwrite(str(labels), cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)[:64, :64])
    return rf'{labels.name} is 64 x 64 pixels \(height x width\), its image 128 x 128'


def cut_labels(image: Path, labels: Path) -> str:
    labels.write_bytes(labels.read_bytes()[:-30])
    return rf'{labels.name} is truncated and cannot be decoded: copy or download it again'


def empty_image(image: Path, labels: Path) -> str:
    image.write_bytes(b'')
    return rf'{image.name} is empty and cannot be decoded: copy or download it again'


def overwrite_image(image: Path, labels: Path) -> str:
    image.write_bytes(b'<html>404</html>')
    return rf'{image.name} is no image and cannot be decoded: copy or download it again'


def damaged(toy_data: Path, folder: Path, damage: Callable[[Path, Path], str | None]) -> tuple[Config, str | None]:
    """The toy segmentor on a copy of the data with one damaged training sample, and the message to expect."""
    shutil.copytree(toy_data / 'ade', folder / 'ade')
    image, labels = (sorted((folder / 'ade' / kind / 'training').iterdir())[0] for kind in ('images', 'annotations'))
    message = damage(image, labels)
    cfg = load_config(str(SEG_CONFIG), {'data_root': str(folder / 'ade'), 'train_dataloader.batch_size': 8})
    cfg.train_cfg.update(max_iters=2, val_interval=100)
    cfg.update(work_dir=str(folder / 'work'), launcher='none', experiment_name=f'damaged_{folder.name}')
    return cfg, message


@pytest.mark.parametrize('damage', [damage_label_value, shrink_labels, cut_labels, empty_image, overwrite_image])
def test_files_that_cannot_be_used_are_named(damage: Callable, toy_data: Path, tmp_path: Path) -> None:
    cfg, message = damaged(toy_data, tmp_path, damage)
    with pytest.raises(ValueError, match=message):
        build_runner(cfg).train()


@pytest.mark.parametrize('kept', [-2, 2000])
def test_a_truncated_image_is_trained_on_with_one_warning(kept: int, toy_data: Path, tmp_path: Path) -> None:
    cfg, _ = damaged(toy_data, tmp_path, lambda image, labels: image.write_bytes(image.read_bytes()[:kept]) and None)
    with pytest.warns(DataFileWarning, match=r'\.jpg is truncated: the run goes on') as caught:
        build_runner(cfg).train()  # two passes over the images
    assert len([one for one in caught if one.category is DataFileWarning]) == 1
    log = ''.join(path.read_text() for path in (tmp_path / 'work').rglob('*.log'))
    assert 'The run went on with 1 fault(s) in data files' in log


@pytest.mark.parametrize(
    ('script', 'arguments', 'expected'),
    [
        ('dist_train.sh', ['C.py', '8', '--amp'], '--nproc_per_node=8 .*train.py C.py --launcher pytorch --amp'),
        ('dist_test.sh', ['C.py', 'x.pth', '4', '--tta'],
         '--nproc_per_node=4 .*test.py C.py x.pth --launcher pytorch --tta'),
        ('slurm_test.sh', ['part', 'job', 'C.py', 'x.pth', '--tta'],
         '--partition=part --job-name=job .*test.py C.py x.pth --launcher slurm --tta'),
    ],
)  # fmt: skip
def test_launchers_call_torchrun_and_srun(script: str, arguments: list[str], expected: str, tmp_path: Path) -> None:
    for name in ('torchrun', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    command = [str(CONFIGS.parent / 'tools' / script)]
    result = subprocess.run(command + arguments, env=env, capture_output=True, text=True)
    assert re.search(expected, result.stdout), result
    assert subprocess.run(command, env=env, capture_output=True).returncode == 2


def test_mixed_precision_recipe_says_that_it_needs_a_gpu(call_tool: CallTool) -> None:
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    path = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-amp-ms-crop-3x_coco.py'
    result = call_tool('train.py', path)
    assert result.returncode == 1
    assert f'error: {path} needs a GPU: MMEngine trains in mixed precision only there' in result.stderr


@pytest.mark.parametrize('trained', ['segmentation'], indirect=True)
def test_resume_is_safe_to_give_always(trained: tuple, call_tool: CallTool, tmp_path: Path) -> None:
    config, data_root, work_dir, _ = trained
    start = ['--resume', *options(data_root, 1, load_from=work_dir / 'iter_2.pth')]
    result = call_tool('train.py', config, '--work-dir', tmp_path / 'new', *start)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert (
        f'{tmp_path}/new has no checkpoint to resume: the training starts from the beginning, '
        f'with the weights of {work_dir}/iter_2.pth' in output
    )
    assert f'Load checkpoint from {work_dir}/iter_2.pth' in output and 'resumed' not in output
    assert 'None' not in re.findall(r'resume.*', output)
    half = (tmp_path / 'new' / 'iter_1.pth').read_bytes()
    (tmp_path / 'new' / 'iter_9.pth').write_bytes(half[: len(half) // 2])
    (tmp_path / 'new' / 'last_checkpoint').write_text(str(tmp_path / 'new' / 'iter_9.pth'))
    result = call_tool('train.py', config, '--work-dir', tmp_path / 'new', '--resume', *options(data_root, 2))
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert f'{tmp_path}/new/iter_9.pth is passed over: it is cut off, or no checkpoint' in output
    assert 'resumed epoch: 0, iter: 1' in output
    damaged = bytearray(half)
    damaged[len(half) // 2] ^= 1
    (tmp_path / 'flipped.pth').write_bytes(damaged)
    arguments = ['--work-dir', tmp_path / 'new', '--resume', tmp_path / 'flipped.pth', *options(data_root, 3)]
    result = call_tool('train.py', config, *arguments)
    assert result.returncode == 1
    assert f'error: checkpoint {tmp_path}/flipped.pth cannot be read: it is damaged: the checksum of' in result.stderr


def test_a_second_training_in_a_work_directory_is_refused(toy_data: Path, call_tool: CallTool, tmp_path: Path) -> None:
    with (tmp_path / '.lock').open('w') as lock:
        lock.write('process 1 on another')
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = call_tool('train.py', SEG_CONFIG, '--work-dir', tmp_path, *options(toy_data / 'ade', 1))
    assert result.returncode == 1
    assert f'error: another training writes to {tmp_path}: process 1 on another. Wait for its end' in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['.lock']


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (
            {'train_cfg.max_iter': 3},
            1,
            'IterBasedTrainLoop) has no argument max_iter: do you mean max_iters?',
        ),
        (
            {'optim_wrapper.optimiser.lr': 3},
            1,
            'OptimWrapper) has no argument optimiser: do you mean optimizer?',
        ),
        (
            {'default_hooks.logger.intervall': 3},
            1,
            'LoggerHook) has no argument intervall: do you mean interval?',
        ),
        ({'optim_wrapper': 'AdamW'}, 1, "optim_wrapper is 'AdamW': write optim_wrapper = dict(...)"),
        ({'train_cfg.type': 'IterLoop'}, 1, "'IterLoop' is no loop of"),
        (
            {'optim_wrapper.optimizer.type': 'SGDD'},
            1,
            "optim_wrapper.optimizer: 'SGDD' is no optimizer: do you mean SGD?",
        ),
        ({'train_cfg.max_iters': 'abc'}, 1, "train_cfg.max_iters is 'abc': write a whole number, at least 1"),
        ({'train_cfg.max_iters': 0}, 1, 'train_cfg.max_iters is 0: write a whole number, at least 1'),
        ({'train_cfg.val_interval': 0}, 1, 'train_cfg.val_interval is 0: write a whole number, at least 1'),
        ({'train_dataloader.batch_size': 0}, 1, 'batch_size should be a positive integer'),
        (
            {'train_dataloader.batch_sise': 2},
            1,
            'train_dataloader (DataLoader) has no argument batch_sise: do you mean batch_size?',
        ),
        (
            {'default_hooks.checkpoint.intervall': 3},
            1,
            'default_hooks.checkpoint (SafeCheckpointHook) has no argument intervall: do you mean interval?',
        ),
        ({'default_hooks.checkpoint.interval': 'x'}, 1, "interval of checkpoints is 'x': give a number of iterations"),
        ({'default_hooks.checkpoint.out_dir': '/dev/null'}, 1, 'no folder /dev/null/work can be made for checkpoints'),
        ({'model': 3}, 1, '.py: model is 3: write model = dict(...)'),
        ({'train_dataloader': 'x'}, 1, ".py: train_dataloader is 'x': write train_dataloader = dict(...)"),
        ({'model.backbone.arch': "{'a':(1,2),'b':(1,2)}"}, 2, 'give one value for each key, such as a.b=1 a.c=2'),
        (None, 2, '--cfg-options optim_wrapper: give KEY=VALUE, such as optim_wrapper.type=NAME'),
    ],
)
def test_typos_in_configs_end_in_one_line(
    arguments: dict | None, code: int, message: str, toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    given = options(toy_data / 'ade', 1, **(arguments or {})) + ['optim_wrapper'] * (arguments is None)
    result = call_tool('train.py', SEG_CONFIG, '--work-dir', tmp_path / 'work', *given)
    assert result.returncode == code
    assert message in result.stderr and 'Traceback' not in result.stderr


def test_a_checkpoint_of_another_kind_is_not_scored_unless_asked_for(
    toy_data: Path, toy_checkpoints: dict[str, Path], call_tool: CallTool, tmp_path: Path
) -> None:
    arguments = [SEG_CONFIG, toy_checkpoints['mmdet'], '--work-dir', tmp_path / 'work']
    data = ['--cfg-options', f'data_root={toy_data / "ade"}']
    result = call_tool('test.py', *arguments, *data)
    assert result.returncode == 1
    assert (
        f'error: checkpoint {toy_checkpoints["mmdet"]}: decode_head: not in the checkpoint: give that of a whole model of '
        'this kind, or evaluate random heads with --allow-random-heads' in result.stderr
    )
    assert 'Traceback' not in result.stderr and not (tmp_path / 'work').exists()
    result = call_tool('test.py', *arguments, '--allow-random-heads', *data)
    assert result.returncode == 0 and 'mIoU:' in result.stdout + result.stderr
