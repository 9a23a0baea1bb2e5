"""tools/export_matrix.py: the page from results that are there already, and the accuracy in int8."""

import json

import pytest

pytest.importorskip('mmseg')


def test_the_sections_are_written_from_kept_results(call_tool, tmp_path) -> None:
    from mmtwins.export.matrix import SIZES, all_cells

    results, page = tmp_path / 'results', tmp_path / 'export.md'
    results.mkdir()
    sizes = [dict(size=size, difference=1e-6, eager_seconds=1.0, seconds=0.5) for size in SIZES]
    for cell in all_cells(['svt-s'], ['fpn']):
        kept = dict(cell._asdict(), state='works', reason='', runtime='a runtime', sizes=sizes)
        (results / f'{cell.name}.json').write_text(json.dumps(kept))
    accuracy = dict(mIoU=70.0, seconds=0.1, megabytes=1.0, images=9)
    (results / 'int8.json').write_text(json.dumps(dict(eager=accuracy, int8=accuracy)))
    marks = [f'<!-- {name}: begin -->\n<!-- {name}: end -->\n' for name in ('matrix', 'int8')]
    page.write_text(f'# Title\n{"".join(marks)}The end\n')
    done = call_tool('export_matrix.py', '--kept', '--results', results, '--page', page)
    assert done.returncode == 0, done.stderr
    assert 'svt-s fpn onnx works' in done.stdout
    text = page.read_text()
    assert text.startswith('# Title\n') and text.endswith('The end\n')
    assert '5 of 5 files give the results of PyTorch' in text
    assert '| ONNX Runtime, int8 | 70.00 |' in text


def test_a_page_without_sections_ends_in_one_line(call_tool, tmp_path) -> None:
    (tmp_path / 'int8.json').write_text(json.dumps(dict(eager=dict(mIoU=1, seconds=1, megabytes=0, images=1))))
    (tmp_path / 'a.md').write_text('nothing')
    done = call_tool('export_matrix.py', '--kept', '--results', tmp_path, '--page', tmp_path / 'a.md')
    assert done.returncode == 1 and 'has no section between <!-- int8: begin -->' in done.stderr
