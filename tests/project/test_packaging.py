"""What `pip install .` puts where, and that mim works with it from a folder that is not the checkout."""

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from mmtwins.installing import package_of

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ('mmtwins', 'configs', 'tools', 'requirements')
TOOLS = ('train.py', 'test.py')
SET_UP = {f'tools/{path.name}' for path in (ROOT / 'tools').glob('setup_*.py')}  # works in a checkout only


def shipped(folder: str) -> set[str]:
    """Files of a folder of the checkout that belong into the wheel, relative to the checkout."""
    paths = {path for path in (ROOT / folder).rglob('*') if path.is_file() and '__pycache__' not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in paths} - SET_UP


def run(*command: str, cwd: Path, site: Path | None = None) -> str:
    """Run a command and give back what it printed; fail with it where the command fails.

    With ``site``, Python finds the packages of that folder and no checkout.
    """
    env = dict(os.environ)
    if site:
        env['PYTHONPATH'] = os.pathsep.join([str(site), str(ROOT / 'tests' / 'stand_ins')])
    pipes = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    done = subprocess.run(command, cwd=cwd, env=env, timeout=300, **pipes)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout with what a former build left in it."""
    copy = tmp_path_factory.mktemp('packaging') / 'checkout'
    ignored = shutil.ignore_patterns('__pycache__')
    for folder in SHIPPED:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for file in (
        'setup.py',
        'pyproject.toml',
        'MANIFEST.in',
        'model-index.yml',
        'LICENSE',
        'CITATION.cff',
        'README.md',
    ):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, copy)
    for stale in ('.mim/configs/deleted.py', 'deleted.py'):
        path = copy / 'build' / 'lib' / 'mmtwins' / stale
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return copy


@pytest.fixture(scope='module')
def wheel(checkout) -> Path:
    options = ('--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir', 'dist', '.')
    run(sys.executable, '-m', 'pip', 'wheel', *options, cwd=checkout)
    (path,) = (checkout / 'dist').glob('*.whl')
    return path


@pytest.fixture(scope='module')
def site(wheel) -> Path:
    """A folder for PYTHONPATH that holds mmtwins as `pip install .` lays it out."""
    folder = wheel.parent.parent.parent / 'site'
    run(
        sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-index', '--target', str(folder), str(wheel), cwd=ROOT
    )
    return folder


def test_the_wheel_holds_the_package_and_what_mim_looks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if '.dist-info/' not in name}
    expected = shipped('mmtwins') | {f'mmtwins/.mim/{name}' for name in shipped('configs') | shipped('tools')}
    assert names == expected | {'mmtwins/.mim/model-index.yml'}
    assert {f'mmtwins/.mim/tools/{tool}' for tool in TOOLS} <= names
    assert {'mmtwins/py.typed', 'mmtwins/models/backbone.py', 'mmtwins/weights/loading.py'} <= names


def test_building_leaves_the_package_folder_as_it_was(wheel, checkout):
    assert {path.name for path in (checkout / 'mmtwins').iterdir()} == {
        path.name for path in (ROOT / 'mmtwins').iterdir() if path.name != '__pycache__'
    }


def test_the_source_distribution_holds_all_that_building_needs(wheel, checkout):
    code = 'from setuptools import build_meta; print(build_meta.build_sdist("dist"))'
    name = run(sys.executable, '-c', code, cwd=checkout).splitlines()[-1]
    with tarfile.open(checkout / 'dist' / name) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    expected = {'setup.py', 'pyproject.toml', 'model-index.yml', 'LICENSE', *SET_UP}
    assert expected.union(*(shipped(folder) for folder in SHIPPED)) <= names
    assert not any(name.startswith('tests') for name in names)


def pins(name: str) -> set[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return {re.sub(r'\s*#.*', '', line) for line in lines if re.sub(r'\s*#.*', '', line)}


def test_versions_come_from_the_requirements_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        metadata = email.message_from_bytes(archive.read(name))
    extras = ('', 'seg', 'det', 'cls', 'app', 'video', 'tracking', 'export', 'openvino', 'tests', 'lint', 'docs', 'all')
    required: dict[str, set[str]] = {extra: set() for extra in extras}
    for line in metadata.get_all('Requires-Dist'):
        requirement, _, extra = line.partition(';')
        required[extra.split('==')[1].strip(' "\'') if extra else ''].add(requirement.replace(' ', ''))

    def same(extra: str, *names: str) -> None:
        def parse(lines: set[str]) -> set[tuple]:
            split = (re.match(r'([\w.-]+)(.*)', line).groups() for line in lines)
            return {(name, frozenset(filter(None, versions.split(',')))) for name, versions in split}

        assert parse(required[extra]) == parse(set().union(*map(pins, names)))

    same('', 'base')
    same('seg', 'mmcv', 'seg')
    same('det', 'mmcv', 'det')
    same('cls', 'mmcv', 'cls')
    same('app', 'app')
    same('video', 'video')
    same('tracking', 'tracking')
    same('export', 'export')
    same('openvino', 'openvino')
    same('tests', 'tests', 'export', 'app', 'video')
    same('lint', 'lint')
    same('docs', 'docs')
    same('all', 'mmcv', 'seg', 'det')
    assert 'mmsegmentation==1.2.2' in required['seg']
    # The recipes fetch their starting weights from there.
    assert any(line.startswith('huggingface_hub>=') for line in required[''])
    assert 'pydantic>=2.10' in required['seg'] & required['det']  # the checks of data
    text = (ROOT / 'mmtwins' / '__init__.py').read_text()
    assert f"__version__ = '{metadata['Version']}'" in text
    assert metadata['License'] == 'Apache-2.0'


@pytest.mark.slow
def test_a_config_inherits_an_installed_one(site, tmp_path):
    for package in ('mmseg', 'mmcv._ext'):
        pytest.importorskip(package)
    base = 'ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
    (tmp_path / 'own.py').write_text(f"_base_ = 'mmtwins::{base}'\nmodel = dict(backbone=dict(arch='base'))\n")
    code = (
        'import mmtwins\n'
        'from mmtwins.engine.config import load_config\n'
        'cfg = load_config("own.py")\n'
        'assert "_scope_" not in str(cfg._cfg_dict), cfg\n'
        'print(mmtwins.__file__, cfg.model.type, cfg.model.backbone.arch, cfg.train_cfg.max_iters)\n'
    )
    found = run(sys.executable, '-c', code, cwd=tmp_path, site=site).splitlines()[-1]
    assert found == f'{site / "mmtwins" / "__init__.py"} EncoderDecoder base 160000'


def test_the_command_of_an_install_lists_and_finds_its_own_recipes(wheel, site, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('.dist-info/entry_points.txt'))
        assert 'mmtwins = mmtwins.__main__:main' in archive.read(name).decode()
    for command in ((sys.executable, str(site / 'bin' / 'mmtwins')), (sys.executable, '-m', 'mmtwins')):
        recipes = json.loads(run(*command, 'list', 'svt-b', '--json', cwd=tmp_path, site=site))
        assert len(recipes) == 7 and all(recipe['parameters'] > 1e7 for recipe in recipes)
        assert all(Path(recipe['config']).is_relative_to(site / 'mmtwins' / '.mim') for recipe in recipes)
    code = (
        f'import sys; sys.argv = [{str(site / "bin" / "mmtwins")!r}]; sys.orig_argv = [sys.executable, *sys.argv]\n'
        'from mmtwins.engine.config_names import find_config\n'
        f'print(find_config({recipes[0]["name"]!r}), "torch" in sys.modules)\n'
    )
    found = run(sys.executable, '-c', code, cwd=tmp_path, site=site).split()
    assert found == [recipes[0]['config'], 'False']


(SEGMENTOR,) = (path.stem for path in (ROOT / 'configs' / 'toy').glob('upernet*.py'))
(DETECTOR,) = (path.stem for path in (ROOT / 'configs' / 'toy').glob('mask-rcnn*.py'))
SHORT = ('--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2')


@pytest.fixture(scope='module')
def elsewhere(site, tmp_path_factory) -> Path:
    """A working folder with toy data, in which only the installed copy of mmtwins is found."""
    for module in ('mim', 'mmseg', 'mmdet', 'mmcv'):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'needs {module}')
    if importlib.util.find_spec('mmcv._ext') is None:
        pytest.skip('needs mmcv with its compiled operators')
    folder = tmp_path_factory.mktemp('elsewhere')
    code = (
        'import mmtwins; from mmtwins.demo.data import generate_toy_data; print(mmtwins.__file__)\n'
        'generate_toy_data("data/toy", num_train=8, num_val=2)\n'
    )
    found = run(sys.executable, '-c', code, cwd=folder, site=site).splitlines()[0]
    assert Path(found) == site / 'mmtwins' / '__init__.py'
    return folder


def mim(elsewhere: Path, site: Path, *arguments: str) -> str:
    code = 'import sys; from mim.cli import cli; sys.exit(cli())'
    return run(sys.executable, '-c', code, *arguments, cwd=elsewhere, site=site)


@pytest.fixture(scope='module')
def trained(elsewhere, site) -> str:
    """What mim prints while it trains."""
    if package_of('mmengine') != 'mmengine':
        pytest.skip('onedl-mim 0.5.1 looks for an installed package that has a command in the folder above it')
    return mim(elsewhere, site, 'train', 'mmtwins', f'{SEGMENTOR}.py', '--from-scratch', *SHORT)


def test_mim_trains_by_the_base_name_of_a_config(trained, elsewhere, site):
    assert 'WARNING - --from-scratch: no ImageNet weights' in trained
    config = site / 'mmtwins' / '.mim' / 'configs' / 'toy' / f'{SEGMENTOR}.py'
    assert f'will use {config.resolve()} instead' in trained
    assert 'Training finished successfully' in trained
    assert (elsewhere / 'work_dirs' / SEGMENTOR / 'iter_2.pth').exists()


@pytest.mark.slow
def test_mim_tests_by_the_base_name_of_a_config(trained, elsewhere, site):
    checkpoint = elsewhere / 'work_dirs' / SEGMENTOR / 'iter_2.pth'
    tested = mim(elsewhere, site, 'test', 'mmtwins', f'{SEGMENTOR}.py', '--checkpoint', str(checkpoint))
    assert re.findall(r'mIoU: ([\d.]+) ', trained)[-1] == re.findall(r'mIoU: ([\d.]+) ', tested)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(('package', 'config'), [('mmseg', SEGMENTOR), ('mmdet', DETECTOR)])
def test_mim_trains_with_the_tools_of_the_frameworks(elsewhere, site, package, config):
    path = site / 'mmtwins' / '.mim' / 'configs' / 'toy' / f'{config}.py'
    folder = elsewhere / package
    output = mim(elsewhere, site, 'train', package_of(package), str(path), '--work-dir', str(folder), *SHORT)
    assert 'Training finished successfully' in output
    assert (folder / 'iter_2.pth').exists()
