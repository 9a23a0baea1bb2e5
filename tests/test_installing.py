"""Hints name a command that works without a package index."""

import re
from pathlib import Path

from mmtwins.installing import how_to_install

ROOT = Path(__file__).parents[1]


def test_the_hint_installs_from_a_checkout() -> None:
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
