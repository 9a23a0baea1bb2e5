"""timm itself, where it is installed, beside the drop-in."""

from types import ModuleType

import pytest

from mmtwins.benchmark.peers import check_installed


@pytest.fixture(scope='session')
def timm() -> ModuleType:
    """timm; a test that needs it skips where it cannot be imported."""
    try:
        check_installed(['timm'])
    except ImportError as error:
        pytest.skip(f'needs timm beside it: {error}')
    import timm

    return timm
