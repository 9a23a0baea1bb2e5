"""tools/check_data.py: what it prints and writes, and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from toys import TOYS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


@pytest.fixture
def copied_data(toy_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_data, tmp_path / 'toy'))


def test_right_data(call_tool, toy_data: Path, tmp_path: Path) -> None:
    done = call_tool('check_data.py', TOYS['mmdet'], '--cfg-options', f'data_root={toy_data}/coco', '--workers', 1)
    assert done.returncode == 0, done.stderr
    out = tmp_path / 'work_dirs' / TOYS['mmdet'].stem / 'data'
    path = f'{toy_data}/coco/annotations/instances_train2017.json'
    lines = [line for line in done.stdout.splitlines() if 'OneDL' not in line]  # the fork says what else it could read
    assert lines[0] == f'train: train_dataloader.dataset ({path})'
    assert '  8 images, ' in done.stdout and 'no errors and ' in done.stdout
    names = ['report.json', 'train-train_dataloader-dataset.png', 'val-test-val_dataloader-dataset.png']
    assert sorted(path.name for path in out.iterdir()) == names
    report = json.loads((out / 'report.json').read_text())
    assert [source['numbers']['images'] for source in report['sources']] == [8, 4]
    assert Image.open(out / names[1]).width == 1300


def test_errors_and_what_is_allowed(call_tool, copied_data: Path, tmp_path: Path) -> None:
    path = copied_data / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    content['annotations'].append(dict(content['annotations'][0], id=999, image_id=77))
    path.write_text(json.dumps(content))
    arguments = [
        TOYS['mmdet'],
        '--cfg-options',
        f'data_root={copied_data}/coco',
        '--splits',
        'train',
        '--fast',
        '--out',
        'new',
    ]
    done = call_tool('check_data.py', *arguments)
    assert done.returncode == 1 and not done.stderr
    assert f'error   [unknown-image] {path}: 1 of ' in done.stdout and '(annotation 999 in image 77)' in done.stdout
    assert (tmp_path / 'new/report.json').exists()
    done = call_tool('check_data.py', *arguments, '--allow', 'unknown-image')
    assert done.returncode == 0 and 'warning [unknown-image]' in done.stdout
    assert call_tool('check_data.py', *arguments, '--allow', 'unknown-image', '--strict').returncode == 1


def test_label_images(call_tool, copied_data: Path) -> None:
    (copied_data / 'ade/annotations/validation/ADE_val_00000002.png').write_text('no image')
    arguments = [TOYS['mmseg'], '--cfg-options', f'data_root={copied_data}/ade', '--workers', 1]
    done = call_tool('check_data.py', *arguments)
    assert done.returncode == 1
    assert 'ADE_val_00000002.png cannot be decoded' in done.stdout and 'train: train_dataloader.dataset' in done.stdout


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (['nowhere.py'], 1, 'error: config nowhere.py does not exist'),
        ([TOYS['mmdet'], '--allow', 'schema'], 1, 'error: --allow schema: choose from box-format'),
        ([TOYS['mmdet'], '--splits', 'all'], 2, 'invalid choice'),
    ],
)
def test_wrong_arguments(call_tool, arguments: list, code: int, message: str) -> None:
    done = call_tool('check_data.py', *arguments)
    assert done.returncode == code and message in done.stderr and 'Traceback' not in done.stderr


def test_missing_data_are_errors_in_the_report(call_tool, tmp_path: Path) -> None:
    done = call_tool('check_data.py', TOYS['mmdet'], '--cfg-options', f'data_root={tmp_path}/nowhere')
    assert done.returncode == 1
    assert 'the annotation file does not exist' in done.stdout
