"""500 hostile checkpoints through everything that reads one: no code runs, each is refused, nothing is written."""

import contextlib
import copyreg
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hostile
import pytest
import torch
from hostile import EXTENSION, Hostile
from hostile_files import make_hostile, marks
from mmengine.runner import CheckpointLoader, load_checkpoint
from tiny import make_tiny
from torch import nn

from mmtwins.commands.convert import convert_file
from mmtwins.engine.work_dir import find_newest_checkpoint
from mmtwins.weights import opening
from mmtwins.weights.loading import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
(SEGMENTOR,) = (REPOSITORY / 'configs/toy').glob('upernet*.py')
(DETECTOR,) = (REPOSITORY / 'configs/toy').glob('mask-rcnn*.py')
needs_libraries = pytest.mark.skipif(
    find_spec('mmseg') is None or find_spec('mmdet') is None, reason='needs MMSegmentation and MMDetection'
)


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Hostile]]:
    copyreg.add_extension('hostile', 'leave_mark', EXTENSION)
    yield make_hostile(tmp_path_factory.mktemp('hostile'))
    copyreg.remove_extension('hostile', 'leave_mark', EXTENSION)


@pytest.fixture
def sample(files: list[Hostile]) -> list[Hostile]:
    """A tenth of the files, of all kinds."""
    return files[::10]


def folder_of(files: list[Hostile]) -> Path:
    return next(Path(one.path).parent for one in files if one.runs)


def assert_refused(read: Callable[[str], object], files: list[Hostile], by_us: bool = True) -> None:
    """Each file is refused in one sentence that names it, and nothing happens to its folder or the one that we are in.

    Args:
        read: Reads a checkpoint.
        files: Hostile ones.
        by_us: Whether the sentence is ours; else any error will do.
    """
    folder = folder_of(files)
    before = sorted(os.listdir(folder)), sorted(os.listdir('.'))
    for one in files:
        with pytest.raises((ValueError, OSError) if by_us else Exception) as refused:
            read(one.path)
        assert marks(folder) == [], one.kind
        message = str(refused.value)
        assert not by_us or message.startswith('checkpoint '), (one.kind, message)
        assert not by_us or message.isprintable(), (one.kind, message)
        assert 'weights_only' not in message or not by_us, (one.kind, message)
    assert (sorted(os.listdir(folder)), sorted(os.listdir('.'))) == before


def read_as_older_torch(path: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, 'CAN_ALLOW_TYPES', False)
        return read_checkpoint(path)


def initialise(path: str) -> None:
    make_tiny(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


def initialise_another_model(path: str) -> None:
    from mmengine.model import BaseModule

    class Other(BaseModule):
        def __init__(self) -> None:
            super().__init__(init_cfg=dict(type='Pretrained', checkpoint=path))
            self.layer = nn.Linear(2, 2)

    Other().init_weights()


def load_as_mmengine(path: str) -> None:
    load_checkpoint(nn.Linear(2, 2), path)


def convert(path: str) -> None:
    convert_file(path, Path('converted.pth'), 'timm')


READERS = [
    read_checkpoint,
    read_as_older_torch,
    CheckpointLoader.load_checkpoint,
    load_as_mmengine,
    initialise,
    initialise_another_model,
    convert,
]


@pytest.mark.parametrize('read', READERS)
def test_a_tenth_of_them_is_refused(read: Callable, sample: list[Hostile], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(read, sample)


@pytest.mark.slow
@pytest.mark.parametrize('read', READERS)
def test_all_of_them_are_refused(read: Callable, files: list[Hostile], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(read, files)


def test_they_run_where_they_are_trusted(files: list[Hostile], tmp_path: Path, monkeypatch) -> None:
    # The control: without it, files that do nothing anywhere would pass for refused.
    monkeypatch.chdir(tmp_path)
    folder = folder_of(files)
    running = [one for one in files if one.runs]
    assert len(running) > 200
    for one in running[::7]:
        with contextlib.suppress(Exception):  # many end in what is no checkpoint
            torch.load(one.path, **{'weights_only': False})
        found = marks(folder)
        assert len(found) == 1, one.kind
        (folder / found[0]).rmdir() if (folder / found[0]).is_dir() else (folder / found[0]).unlink()


def test_the_files_are_the_same_for_a_seed_and_of_all_kinds(files: list[Hostile], tmp_path: Path) -> None:
    again = make_hostile(tmp_path)
    assert [one.kind.replace(str(tmp_path), '') for one in again] == [
        one.kind.replace(str(folder_of(files)), '') for one in files
    ]
    assert len(files) == 500
    for family in hostile.FAMILIES:
        protocols = {one.kind.split('protocol ')[1][0] for one in files if one.kind.startswith(f'{family} of')}
        assert protocols == set('012345'), family


def test_a_work_directory_of_them_is_refused_or_passed_over(sample: list[Hostile], tmp_path: Path) -> None:
    folder = folder_of(sample)
    for index, one in enumerate(sample):
        work_dir = tmp_path / str(index)
        work_dir.mkdir()
        try:
            (work_dir / 'iter_1.pth').symlink_to(one.path)
        except (OSError, ValueError):
            continue
        try:
            assert find_newest_checkpoint(work_dir).path is None, one.kind
        except ValueError as error:
            assert 'refused' in str(error) or 'too large' in str(error), one.kind
        assert marks(folder) == [], one.kind


@cache
def toy_config(path: Path) -> object:
    from mmtwins.engine.config import load_config

    return load_config(str(path))


def check(path: str, config: Path, **changes: object) -> None:
    """As ``mmtwins train`` and ``test`` do before anything else."""
    import copy

    from mmtwins.engine.checks import check_checkpoints

    cfg = copy.deepcopy(toy_config(config))
    cfg.load_from, cfg.resume = path, changes.get('resume', False)
    check_checkpoints(cfg, for_training=changes.get('for_training', True))


def predict(path: str) -> None:
    from mmtwins.inference.predictor import Predictor

    Predictor(SEGMENTOR, path, 'cpu')


def export(path: str) -> None:
    from mmtwins.export import build_exportable

    build_exportable(toy_config(SEGMENTOR), path)


def inspect(path: str) -> None:
    from mmtwins.inference.inferencers import load_inferencer

    load_inferencer(SEGMENTOR, path, 'cpu')


def init_segmentor(path: str) -> None:
    from mmseg.apis import init_model

    init_model(str(SEGMENTOR), path, 'cpu')


def init_detector(path: str) -> None:
    from mmdet.apis import init_detector

    init_detector(str(DETECTOR), path, device='cpu')


def build_inferencer_alone(path: str) -> None:
    from mmdet.apis import DetInferencer

    DetInferencer(weights=path, device='cpu')


LIBRARY_READERS = {
    'train, load_from': lambda path: check(path, SEGMENTOR),
    'train, resume': lambda path: check(path, DETECTOR, resume=True),
    'test': lambda path: check(path, SEGMENTOR, for_training=False),
    'predict and app': predict,
    'export': export,
    'attention': inspect,
    'init_model': init_segmentor,
    'init_detector': init_detector,
    'DetInferencer': build_inferencer_alone,
}


@needs_libraries
@pytest.mark.slow
@pytest.mark.parametrize('name', LIBRARY_READERS)
def test_all_of_them_are_refused_with_the_libraries(
    name: str, files: list[Hostile], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(LIBRARY_READERS[name], files)


@needs_libraries
@pytest.mark.slow
@pytest.mark.parametrize('library', ['mmseg', 'mmdet'])
def test_publishing_tools_of_the_libraries_run_nothing(
    library: str, files: list[Hostile], tmp_path: Path, monkeypatch
) -> None:
    # They call torch.load themselves, which reads as weights only from version 2.6.
    monkeypatch.chdir(tmp_path)
    (tool,) = Path(next(iter(find_spec(library).submodule_search_locations))).glob('.mim/tools/*/publish_model.py')

    def publish(path: str) -> None:
        monkeypatch.setattr(sys, 'argv', ['publish_model.py', path, 'published.pth'])
        runpy.run_path(str(tool), run_name='__main__')

    assert_refused(publish, [one for one in files if one.runs], by_us=False)


@needs_libraries
@pytest.mark.slow
@pytest.mark.parametrize(
    'command',
    [
        'train.py CONFIG --cfg-options load_from=FILE',
        'train.py CONFIG --resume FILE',
        'test.py CONFIG FILE',
        'infer.py CONFIG FILE IMAGE --out out',
        'convert_checkpoint.py FILE out.pth --to timm',
        'export_onnx.py CONFIG FILE out.onnx',
        'app.py CONFIG FILE',
        'visualize_attention.py CONFIG FILE IMAGE --points 4 4',
    ],
)
def test_commands_end_in_one_sentence(
    command: str, files: list[Hostile], call_tool, toy_data: Path, tmp_path: Path
) -> None:
    (tmp_path / 'data').symlink_to(toy_data.parent)
    image = next((toy_data / 'ade/images/validation').iterdir())
    for one in files[::25]:
        values = dict(CONFIG=str(SEGMENTOR), FILE=one.path, IMAGE=str(image))
        args = [
            arg.replace('FILE', values['FILE']) if '=FILE' in arg else values.get(arg, arg) for arg in command.split()
        ]
        done = call_tool(*args)
        assert done.returncode == 1, one.kind
        assert done.stderr.splitlines()[-1].startswith('error: checkpoint '), (one.kind, done.stderr)
        assert 'Traceback' not in done.stderr, one.kind
        assert os.listdir(tmp_path) == ['data'], one.kind
        assert marks(folder_of(files)) == [], one.kind
