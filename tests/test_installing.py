"""Hints name a command that works without a package index."""

import re
from pathlib import Path

import pytest

from mmtwins import installing
from mmtwins.installing import how_to_install, package_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that are installed: to be changed."""
    packages = {'mmengine', 'mmcv', 'mmsegmentation', 'mmdet'}
    monkeypatch.setattr(installing, '_is_installed', packages.__contains__)
    return packages


def test_a_module_comes_from_the_package_that_is_there(installed: set[str]) -> None:
    assert [package_of(name) for name in ('mmseg', 'mmdet', 'timm')] == ['mmsegmentation', 'mmdet', 'timm']
    installed.clear()
    assert package_of('mmseg') == 'mmsegmentation'
    installed |= {'onedl-mmsegmentation', 'onedl-mmdetection'}
    assert [package_of(name) for name in ('mmseg', 'mmdet', 'mmcv')] == [
        'onedl-mmsegmentation',
        'onedl-mmdetection',
        'mmcv',
    ]


def test_the_packages_are_those_of_the_set_up() -> None:
    text = (ROOT / 'tools/setup_steps.py').read_text()
    assert all(f"'{theirs}': '{fork}'" in text for theirs, fork in installing.PACKAGES.values())


def test_hints_bring_no_package_of_openmmlab_beside_the_forks(installed: set[str]) -> None:
    installed.clear()
    installed.add('onedl-mmengine')
    assert how_to_install('seg') == 'run `make setup` in a checkout of mmtwins'
    hint = 'run `make setup`, or `pip install -r requirements/app.txt`, in a checkout of mmtwins'
    assert how_to_install('app') == hint
    assert how_to_install('cls') == 'run `pip install onedl-mmpretrain`'


def test_the_hint_installs_from_a_checkout(installed: set[str]) -> None:
    assert how_to_install('app').endswith("`pip install --no-build-isolation '.[app]'`, in a checkout of mmtwins")
    assert 'make setup' in how_to_install('app')
    assert how_to_install('cls') == "run `pip install --no-build-isolation '.[cls]'` in a checkout of mmtwins"


def test_every_extra_that_a_hint_names_exists() -> None:
    extras = set(re.findall(r"^        '(\w+)': ", (ROOT / 'setup.py').read_text(), re.MULTILINE))
    sources = [path.read_text() for folder in ('mmtwins', 'tools') for path in (ROOT / folder).rglob('*.py')]
    named = {name for text in sources for name in re.findall(r"how_to_install\(['\"](\w+)['\"]\)", text)}
    assert {'app'} <= named <= extras
    assert {'export', 'openvino'} <= extras  # mmtwins/export/runtimes.py chooses between them


def test_nothing_asks_for_a_package_that_no_index_has() -> None:
    pages = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *(ROOT / 'mmtwins').rglob('*.py')]
    assert [path for path in pages if 'mmtwins[' in path.read_text()] == []
