"""The page of models."""

import pytest

from mmtwins.swapping import catalogue as module
from mmtwins.swapping.catalogue import models_page

WORKS = dict(state='works', config='a.py', old='ResNet', parameters=12_340_000, macs=5_600_000_000)


def test_the_page_has_a_row_for_every_folder_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'folders', lambda library: ['a', 'b', 'c', 'd'][: 3 if library == 'mmseg' else 4])
    results = [
        dict(library='mmseg', folder='ann', **WORKS),
        dict(library='mmseg', folder='fcn', **WORKS, by_predicting=True),
        dict(library='mmseg', folder='stdc', state='refused', config='b.py', reason='its backbone is the method'),
        dict(library='mmdet', folder='dino', **{**WORKS, 'macs': None}),
        dict(library='mmdet', folder='reid', state='missing', config='c.py', reason='needs a|b'),
        dict(library='mmdet', folder='x', state='failed', config=None, reason='one\ntwo'),
    ]
    page = models_page(results, 'svt-s', 'tools/models_page.py')
    assert '| ann | `a.py` | ResNet | 12.3 | 6 |' in page
    assert '| fcn | `a.py` | ResNet | 12.3 | ~6 |' in page
    assert '| stdc | `b.py` | Its backbone is the method. |' in page
    assert '| dino | `a.py` | ResNet | 12.3 | - |' in page
    assert r'| reid | `c.py` | Not run here. Needs a\|b. |' in page
    assert '| x | - | Failed. One two. |' in page
    assert '3 folders; take Twins: 2, cannot: 1.\n' in page
    text = 'cannot: 0, need packages that were not installed: 1, failed: 1, not tried yet: 1.'
    assert f'4 folders; take Twins: 1, {text}\n' in page
