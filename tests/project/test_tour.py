"""docs/tour.ipynb: every cell runs in a Jupyter kernel, at small size and without a network, and does what it says."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model
from mmtwins.weights.opening import read_file

nbformat = pytest.importorskip('nbformat')
pytest.importorskip('mmseg')
pytest.importorskip('onnxruntime')

REPOSITORY = Path(__file__).parents[2]
TOUR = REPOSITORY / 'docs' / 'tour.ipynb'
RECIPE = REPOSITORY / 'configs' / 'ade20k' / 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py'
# The recipe with a small backbone, for small images.
SMALL = f"""
_base_ = {str(RECIPE)!r}
dims = [16, 32, 48, 64]
arch = dict(embed_dims=dims, depths=(2, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))
model = dict(
    backbone=dict(arch=dict(_delete_=True, **arch), init_cfg=None, drop_path_rate=0.0),
    neck=dict(in_channels=dims, out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=32, dropout_ratio=0.0),
)
resize = dict(type='Resize', scale=(512, 64), keep_ratio=True)
test_pipeline = [resize if step.type == 'Resize' else step for step in _base_.test_pipeline]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def read_tour() -> Any:
    return nbformat.read(TOUR, as_version=4)


@pytest.fixture(scope='module')
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook after a run with a small model of random weights, and the folder that it wrote."""
    nbclient = pytest.importorskip('nbclient')
    pytest.importorskip('ipykernel')
    root = tmp_path_factory.mktemp('tour')
    (root / 'small.py').write_text(SMALL)
    torch.manual_seed(0)
    model = build_model(load_config(str(root / 'small.py')))
    torch.save(dict(state_dict=model.state_dict(), meta={}), root / 'weights.pth')
    tour = read_tour()
    settings = next(cell for cell in tour.cells if 'parameters' in cell.metadata.get('tags', ()))
    settings.source += '\n' + '\n'.join(
        f'{name} = {value!r}'
        for name, value in dict(
            CONFIG=str(root / 'small.py'),
            WEIGHTS=str(root / 'weights.pth'),
            FOLDER=str(root / 'written'),
            SIDE=64,
            ITERATIONS=40,
            LEARNING_RATE=2e-3,
        ).items()
    )
    threads = os.environ.get('OMP_NUM_THREADS', '2')
    resources = dict(metadata=dict(path=str(root)))
    os.environ['OMP_NUM_THREADS'] = '1'
    try:
        nbclient.NotebookClient(tour, timeout=300, kernel_name='python3', resources=resources).execute()
    finally:
        os.environ['OMP_NUM_THREADS'] = threads
    return tour, root / 'written'


def text_of(tour: Any, word: str) -> str:
    """What the one code cell with a word printed."""
    (cell,) = (cell for cell in tour.cells if cell.cell_type == 'code' and word in cell.source)
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_it_says(executed: tuple[Any, Path]) -> None:
    tour, folder = executed
    cells = [cell for cell in tour.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    pictures = [output for cell in cells for output in cell.outputs if 'image/png' in output.get('data', {})]
    assert len(pictures) == 5  # prediction, attention, own images, loss, predictions
    assert '(600, 512, 3) (600, 512) 150 classes' in text_of(tour, 'mmtwins.infer(CONFIG')
    assert ' warnings, no errors' in text_of(tour, 'check_datasets')
    for split, number in (('train', 16), ('val', 4)):
        for kind in ('images', 'labels'):
            assert len(list((folder / 'data' / kind / split).glob('*.png'))) == number


@pytest.mark.slow
def test_the_model_learns_the_images_that_the_notebook_draws(executed: tuple[Any, Path]) -> None:
    """Always saying `table` would reach less than 30 percent."""
    _, folder = executed
    (log,) = folder.glob('training/*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    assert len(losses) > 5 and losses[-1] < 0.6 * losses[0]
    (miou,) = [record['mIoU'] for record in records if 'mIoU' in record]
    assert miou > 35  # percent
    (checkpoint,) = folder.glob('training/iter_40.pth')
    assert read_file(checkpoint)['meta']['dataset_meta']['classes'] == ('table', 'coin', 'brick')


@pytest.mark.slow
def test_the_exported_model_predicts_as_in_pytorch(executed: tuple[Any, Path]) -> None:
    tour, _ = executed
    found = re.fullmatch(
        r"\['table', 'coin', 'brick'\] ([\d.]+)% of the pixels .*\n", text_of(tour, 'InferenceSession')
    )
    assert found and float(found[1]) > 99.9


def test_the_file_is_valid_and_opens_in_colab() -> None:
    tour = read_tour()
    nbformat.validate(tour)
    assert (tour.nbformat, tour.metadata.kernelspec.name) == (4, 'python3')
    sources = [cell.source for cell in tour.cells if cell.cell_type == 'code']
    assert not [source for source in sources if re.search(r'^\s*[%!]', source, re.MULTILINE)]  # plain Python
    assert all(cell.source.strip() for cell in tour.cells)
    for target in re.findall(r'\]\((?!https?://)([^)#]+)', ''.join(cell.source for cell in tour.cells)):
        assert (TOUR.parent / target).exists(), target
    for path in re.findall(r'(?:configs|requirements)/[\w/.-]+\.(?:py|txt)', ''.join(sources)):
        assert (REPOSITORY / path).is_file(), path


def test_stored_outputs_are_small_and_name_no_place() -> None:
    assert TOUR.stat().st_size < 1_500_000
    for cell in read_tour().cells:
        for output in cell.get('outputs', ()):
            assert output.output_type != 'error'
            text = output.get('text', '') + ''.join(output.get('data', {}).get('text/plain', ''))
            assert not re.search(r'(?:^|[\s\'"])/\w+/', text), text


def test_the_install_cell_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is installed, and no address given, it asks for the address; with one, it clones and installs."""
    import importlib.util
    import subprocess

    (cell,) = (cell for cell in read_tour().cells if "'git', 'clone'" in cell.source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: 'torch' if name == 'torch' else None)
    with pytest.raises(ValueError, match='write the git URL of mmtwins into SOURCE'):
        exec(cell.source, dict(SOURCE='', CONFIG=''))
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, 'run', lambda command, **options: commands.append([*command, options.get('cwd')]))
    with pytest.raises(AttributeError):  # find_spec still finds nothing
        exec(cell.source, dict(SOURCE='https://example.org/mmtwins.git', CONFIG=''))
    clone, build, package = commands
    assert clone[:2] == ['git', 'clone'] and clone[4] == 'https://example.org/mmtwins.git'
    assert build[-3:] == ['-r', 'requirements/build.txt', tmp_path / 'mmtwins']
    assert package[-3:] == ['--no-build-isolation', '.[all,export]', tmp_path / 'mmtwins']
