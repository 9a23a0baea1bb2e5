"""MMEngine's look for MMCV's operators, as on Python 3.14, where pkgutil has no find_loader."""

import pkgutil

import pytest
from mmengine.utils.dl_utils import mmcv_full_available

from mmtwins.engine.find_loader import restore_find_loader


def test_the_function_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = mmcv_full_available()
    monkeypatch.delattr(pkgutil, 'find_loader', raising=False)
    restore_find_loader()
    assert mmcv_full_available() == expected
    assert pkgutil.find_loader('json').name == 'json'
    assert pkgutil.find_loader('mmtwins.nothing') is None


@pytest.mark.skipif(not hasattr(pkgutil, 'find_loader'), reason='Python has no such function')
def test_a_function_that_is_there_is_kept() -> None:
    own = pkgutil.find_loader
    restore_find_loader()
    assert pkgutil.find_loader is own
