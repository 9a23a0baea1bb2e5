"""Pictures of a training: what they show, and that the training is the same without them."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from resumed_runs import assert_same_checkpoints
from test_resume_toys import small_config
from toys import TOYS

from mmtwins.engine import pictures_hook
from mmtwins.engine.config import load_config
from mmtwins.engine.pictures_hook import TrainingPicturesHook
from mmtwins.engine.runner import build_runner, draw_pictures
from mmtwins.figures.examples import Example

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('matplotlib')


def config(task: str, data: Path, work_dir: Path, pictures: dict | None) -> Config:
    """Four iterations with two validations, on all four images."""
    cfg = small_config(task, data, work_dir, by_epoch=False, workers=0)
    library, folder = ('mmdet', 'coco') if task == 'detection' else ('mmseg', 'ade')
    whole = load_config(str(TOYS[library]), {'data_root': str(data / folder)})
    cfg.update({name: whole[name] for name in ('val_cfg', 'val_dataloader', 'val_evaluator')})
    cfg.train_cfg.val_interval = 2
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.pictures = pictures
    cfg.visualizer.name = cfg.experiment_name = str(work_dir)  # MMEngine keeps one of a name
    return cfg


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is drawn at each validation."""
    from mmtwins.figures import examples

    drawn, draw = [], examples.draw_examples
    monkeypatch.setattr(examples, 'draw_examples', lambda found, *rest: drawn.append(found) or draw(found, *rest))
    return drawn


@pytest.mark.parametrize('task', ['segmentation', pytest.param('detection', marks=pytest.mark.slow)])
def test_a_training_is_the_same_to_the_bit_with_pictures(
    task: str, toy_data: Path, tmp_path: Path, examples: list[dict]
) -> None:
    sent: list[tuple] = []
    ignored = dict(add_scalars=lambda *_, **__: None, close=lambda: None)
    tracker = SimpleNamespace(add_image=lambda name, image, step: sent.append((name, image.shape[2], step)), **ignored)
    for name, pictures in (('with', dict(num_images=3)), ('off', dict(draw=False)), ('without', None)):
        runner = build_runner(config(task, toy_data, tmp_path / name, pictures))
        runner.visualizer._vis_backends['tracker'] = tracker
        runner.train()
    for iteration in (2, 4):
        file = f'iter_{iteration}.pth'
        assert_same_checkpoints(tmp_path / 'with' / file, tmp_path / 'without' / file)
        assert_same_checkpoints(tmp_path / 'off' / file, tmp_path / 'without' / file)
    assert sent == [('predictions', 3, 2), ('predictions', 3, 4)]
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.png'))
    folder = 'with/pictures'
    expected = ['curves.png', 'predictions/iter_000002.png', 'predictions/iter_000004.png']
    assert written == [f'{folder}/{name}' for name in expected]
    first, second = ([title.partition(':')[0] for title in found] for found in examples)
    assert first == second and len(set(first)) == 3  # the same images each time
    for found in examples:
        for title, example in found.items():
            assert example.truth is not None and example.image.shape == (128, 128, 3)
            assert ('% of the pixels right' if task == 'segmentation' else 'overlap 0.') in title


def test_a_full_disk_is_one_line_and_ends_nothing(toy_data: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    from matplotlib.figure import Figure

    def fail(self: Figure, path: Path) -> None:
        Path(path).write_bytes(b'half of it')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(Figure, 'savefig', fail)
    runner = build_runner(config('segmentation', toy_data, tmp_path / 'full', dict(type='TrainingPicturesHook')))
    runner.train()
    assert runner.iter == 4
    assert [path.name for path in tmp_path.rglob('*.png')] == []  # not half of one either
    log = next(tmp_path.rglob('*.log')).read_text()
    (line,) = [line for line in log.splitlines() if 'could not be drawn' in line]
    assert line.endswith(
        'A picture of the training could not be drawn (OSError: [Errno 28] No space left on device); the training goes '
        'on. default_hooks.pictures.draw=False draws none'
    )


def test_an_earlier_picture_stays_where_the_next_one_fails(tmp_path: Path) -> None:
    path = tmp_path / 'curves.png'
    pictures_hook._write(path, lambda partial: partial.write_text('first'))
    with pytest.raises(OSError, match='full'):
        pictures_hook._write(path, lambda partial: (partial.write_text('half'), (_ for _ in ()).throw(OSError('full'))))
    assert path.read_text() == 'first' and list(tmp_path.iterdir()) == [path]


def test_the_images_are_spread_over_the_data_set() -> None:
    def places(images: int, processes: int, number: int) -> list[int]:
        loader = SimpleNamespace(dataset=range(images))
        runner = SimpleNamespace(val_dataloader=loader, world_size=processes)
        return sorted(TrainingPicturesHook(num_images=number)._places(runner))

    assert places(100, 1, 4) == [0, 33, 66, 99]
    assert places(100, 8, 4) == [0, 4, 8, 12]  # of 13 on the first process
    assert places(2, 1, 4) == [0, 1] and places(0, 1, 4) == [] and places(5, 1, 0) == []
    with pytest.raises(ValueError, match='num_images=-1: give a number of images'):
        TrainingPicturesHook(num_images=-1)


def test_only_the_first_process_draws_and_only_in_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    hook, drawn = TrainingPicturesHook(), []
    monkeypatch.setattr(hook, '_draw_curves', drawn.append)
    monkeypatch.setattr(hook, '_places', lambda runner: pytest.fail('looks at samples'))

    def validate() -> None:
        hook.before_val_epoch(None)
        hook.after_val_iter(None, 0, None, [object()])
        hook.after_val_epoch(None)

    validate()
    monkeypatch.setattr(pictures_hook, 'is_main_process', lambda: False)
    hook.before_train(None)
    validate()
    hook.after_train(None)
    assert drawn == []


def test_curves_are_drawn_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a minute, or a hundred times as long as a drawing takes: at most a hundredth of the time."""
    now = [0.0]
    monkeypatch.setattr(pictures_hook.time, 'monotonic', lambda: now[0])
    hook = TrainingPicturesHook()
    hook.before_train(None)
    times = []

    def draw(runner: object, act: object) -> None:
        times.append(now[0])
        now[0] += 2 if len(times) > 1 else 0.1

    monkeypatch.setattr(hook, '_try', draw)
    while now[0] < 500:
        now[0] += 1
        hook.after_train_iter(SimpleNamespace(), 0)
    assert times == pytest.approx([61, 122.1, 325.1], abs=1.5)


def test_pictures_are_the_default_and_none_means_none() -> None:
    def hooks(**config: object) -> dict:
        cfg = Config(dict(train_cfg=dict(max_iters=1), default_hooks=dict(), **config))
        draw_pictures(cfg)
        return cfg.default_hooks

    assert (
        hooks(default_scope='mmseg') == hooks(default_scope='mmdet') == dict(pictures=dict(type='TrainingPicturesHook'))
    )
    assert hooks() == {}
    for given, expected in (
        (None, {}),
        (dict(draw=False), dict(pictures=dict(type='TrainingPicturesHook', draw=False))),
    ):
        cfg = Config(dict(train_cfg=dict(max_iters=1), default_scope='mmseg', default_hooks=dict(pictures=given)))
        draw_pictures(cfg)
        assert cfg.default_hooks == expected


def test_samples_of_other_libraries_are_left_out() -> None:
    runner = SimpleNamespace(val_dataloader=SimpleNamespace(dataset=range(2)), world_size=1, logger=None)
    hook = TrainingPicturesHook()
    hook.before_train(runner)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, dict(inputs=[1, 2]), [np.float32(1), np.float32(2)])
    assert hook._examples == {} and hook._seen == 2


def test_images_of_one_name_in_two_folders_are_all_drawn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, examples: list[dict]
) -> None:
    dataset = SimpleNamespace(metainfo=dict(classes=('a',)))
    runner: Any = SimpleNamespace(
        val_dataloader=SimpleNamespace(dataset=dataset), work_dir=str(tmp_path), iter=1,
        visualizer=SimpleNamespace(_vis_backends={}),
    )  # fmt: skip
    example = Example(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), int), np.zeros((4, 4), int))
    monkeypatch.setattr(pictures_hook, 'read_example', lambda *_: example)
    hook = TrainingPicturesHook()
    for folder in 'ab':
        hook._keep(runner, {}, 0, SimpleNamespace(img_path=f'{folder}/1.jpg'))
    hook._draw_examples(runner)
    assert list(examples[0]) == ['1.jpg: 100 % of the pixels right', '1.jpg: 100 % of the pixels right (2)']
