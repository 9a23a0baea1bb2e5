"""tools/models_page.py: the page from results that are there already."""

import json

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def test_the_page_is_written_from_kept_results(call_tool, tmp_path) -> None:
    from mmtwins.swapping.sweep import LIBRARIES, folders

    results = tmp_path / 'results'
    results.mkdir()
    for library in LIBRARIES:
        for folder in folders(library):
            kept = dict(library=library, folder=folder, config='a.py', state='refused', reason='a reason')
            (results / f'{library}-{folder}.json').write_text(json.dumps(kept))
    done = call_tool('models_page.py', '--results', results, '--out', tmp_path / 'models.md')
    assert done.returncode == 0, done.stderr
    assert 'mmdet yolox: refused a reason' in done.stdout
    assert '| yolox | `a.py` | A reason. |' in (tmp_path / 'models.md').read_text()
