"""tools/infer.py: what it writes, counts, skips and prints."""

import numpy as np
import pytest
from pictures import write_image
from toys import SEGMENTOR

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')

PHOTO = np.random.RandomState(0).randint(0, 256, (96, 128, 3), np.uint8)


def test_the_tool_writes_skips_counts_and_ends_well(call_tool, toy_checkpoints, tmp_path):
    write_image(tmp_path / 'in/a b.png', PHOTO)
    write_image(tmp_path / 'in/deep/a b.png', PHOTO)
    (tmp_path / 'in/bad.jpg').write_bytes(b'hello')
    out = tmp_path / 'in/out'
    write_image(out / 'overlays/earlier.png', PHOTO)  # a result is no image of the next run
    options = ('--device', 'cpu', '--batch-size', 2, '--score-thr', 0.5)
    done = call_tool('infer.py', SEGMENTOR, toy_checkpoints['mmseg'], tmp_path / 'in', '--out', out, *options)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith('skipped'))
    assert 'bad.jpg' in line
    assert '2 predicted, 1 skipped' in done.stdout
    assert '3/3' in done.stderr  # of the progress bar
    assert '--score-thr is for detectors' in done.stderr
    (out / 'overlays/earlier.png').unlink()
    for kind in ('labels', 'overlays'):
        found = {p.relative_to(out / kind).as_posix() for p in (out / kind).rglob('*') if p.is_file()}
        assert found == {'a b.png', 'deep/a b.png'}


def test_the_tool_fails_where_nothing_could_be_read(call_tool, toy_checkpoints, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'hello')
    done = call_tool('infer.py', SEGMENTOR, toy_checkpoints['mmseg'], tmp_path / 'bad.jpg', '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert '0 predicted, 1 skipped' in done.stdout
    assert done.stderr.splitlines()[-1].startswith('error: nothing in ')
    assert 'Traceback' not in done.stderr
