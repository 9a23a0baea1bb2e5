"""Config arguments: files, names of recipes, and configs of installed packages."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from mmtwins.engine import config_names
from mmtwins.engine.config import load_config
from mmtwins.engine.config_names import complete_config, find_config, inheritable, recipe_files, shipped_folder

CONFIGS = Path(__file__).parents[2] / 'configs'
NAME = 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512'


def test_every_recipe_is_found_by_its_name() -> None:
    leaves = {path.stem: path for path in CONFIGS.glob('*/*.py') if path.parent.name != '_base_'}
    assert recipe_files() == leaves and len(leaves) > 40
    for name, path in leaves.items():
        for given in (name, f'{name}.py', f'mmtwins::{name}', f'mmtwins::{path.parent.name}/{name}.py'):
            assert find_config(given) == str(path)


def test_a_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()  # as in work_dirs
    assert find_config(NAME) == str(CONFIGS / 'ade20k' / f'{NAME}.py')
    (tmp_path / f'{NAME}.py').touch()
    assert find_config(f'{NAME}.py') == f'{NAME}.py'
    for path in ('nowhere.py', 'configs/nowhere.py', 'a/b'):
        assert find_config(path) == path  # check_files says what is wrong


def test_an_installed_package_has_its_recipes_in_mim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / 'mmtwins'
    shutil.copytree(CONFIGS, package / '.mim' / 'configs')
    monkeypatch.setattr(config_names, '_PACKAGE', package)
    assert shipped_folder() == package / '.mim'
    assert find_config(NAME) == str(package / '.mim/configs/ade20k' / f'{NAME}.py')


def test_folders_with_other_letters_are_found_and_can_be_inherited(tmp_path: Path) -> None:
    pytest.importorskip('mmdet')
    name = 'mmdet::legacy_1.x/retinanet_r50_fpn_1x_coco_v1.py'
    (tmp_path / 'own.py').write_text(f'_base_ = {inheritable(name)!r}\n')
    assert load_config(str(tmp_path / 'own.py')).model.backbone == load_config(name).model.backbone
    (tmp_path / 'own.py').write_text(f'_base_ = {name!r}\n')
    with pytest.raises(ValueError, match=r'which MMEngine cannot read: write mmdet::_base_/\.\./legacy_1\.x/retina'):
        load_config(str(tmp_path / 'own.py'))
    usual = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    assert inheritable(usual) == usual


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x51', f'no recipe has this name, perhaps {NAME} or '),
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x51.py', f'no recipe has this name, perhaps {NAME} or '),
        ('zebra', 'config zebra is no file, and no recipe has this name: `mmtwins list` shows the recipes'),
        (f'mmtwins::coco/{NAME}.py', f'perhaps {NAME} or '),
        (f'elsewhere/{NAME}.py', f'the recipe is found by its name alone, {NAME}'),
        ('nolib::a/b.py', 'config nolib::a/b.py, but there is no package nolib: install it, or correct the name'),
    ],
)
def test_a_wrong_name_gets_similar_ones(name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        find_config(name)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ('library', 'config', 'wrong'),
    [
        ('mmseg', 'unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py', 'unet/unet-s5-d16_fcn_4xb4-40k_drive-64x6.py'),
        ('mmdet', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coc.py'),
    ],
)
def test_configs_of_mmseg_and_mmdet(library: str, config: str, wrong: str) -> None:
    pytest.importorskip(library)
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.origin is not None
    expected = Path(spec.origin).parent / '.mim' / 'configs' / config
    if not expected.is_file():
        pytest.skip(f'this install of {library} has no configs')
    assert Path(find_config(f'{library}::{config}')).samefile(expected)
    assert load_config(f'{library}::{config}').default_scope == library
    with pytest.raises(FileNotFoundError, match=f'perhaps {library}::{config} is meant: correct the name'):
        find_config(f'{library}::{wrong}')


def test_names_and_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('argcomplete')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'upernet.py').touch()
    (tmp_path / 'upernet.txt').touch()
    found = complete_config('upernet')
    assert NAME in found and 'upernet.py' in found and 'upernet.txt' not in found
    assert all(name.startswith('upernet') for name in found)
