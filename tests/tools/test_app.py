"""tools/app.py: its arguments, and what it gives to the page. tests/page/test_controls.py uses the page."""

import pytest
from toys import SEGMENTOR

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')


@pytest.mark.parametrize('arguments', [['--port', '0'], ['--port', '65536'], ['--max-megabytes', '0']])
def test_numbers_out_of_range_are_refused(call_tool, arguments):
    done = call_tool('app.py', SEGMENTOR, 'none.pth', *arguments)
    assert done.returncode == 1
    assert done.stderr.endswith('both must be above 0, a port below 65536\n')


def test_the_page_is_served_with_the_arguments(call_tool, toy_checkpoints, monkeypatch):
    from mmtwins.page import controls, serving

    served = []
    monkeypatch.setattr(controls, 'build_app', lambda *arguments: arguments)
    monkeypatch.setattr(serving, 'serve', lambda *arguments: served.append(arguments))
    options = ['--port', 1234, '--max-megabytes', 5, '--score-thr', 0.5, '--device', 'cpu', '--examples', 'mine']
    done = call_tool('app.py', SEGMENTOR, toy_checkpoints['mmseg'], *options)
    assert done.returncode == 0, done.stderr
    (((predictor, examples), host, port, megabytes),) = served
    assert examples == 'mine'
    assert (host, port, megabytes, predictor.score_thr) == ('127.0.0.1', 1234, 5, 0.5)
