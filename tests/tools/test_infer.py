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


def test_several_inputs_keep_their_folders_and_replace_nothing_of_each_other(call_tool, toy_checkpoints, tmp_path):
    for name in ('a/1.png', 'b/1.png', 'b/deep/1.png', 'c/2.png'):
        write_image(tmp_path / name, PHOTO)
    given = [tmp_path / 'a/1.png', tmp_path / 'b', tmp_path / 'b/1.png', f'{tmp_path}/b/../c/*.png']
    arguments = [SEGMENTOR, toy_checkpoints['mmseg'], *given, '--out', tmp_path / 'b/out', '--device', 'cpu']
    for _ in range(2):  # the second run does not take the results of the first for images
        done = call_tool('infer.py', *arguments)
        assert done.returncode == 0, done.stderr
        assert '4 predicted, 0 skipped' in done.stdout
    labels = tmp_path / 'b/out/labels'
    found = {path.relative_to(labels).as_posix() for path in labels.rglob('*.png')}
    assert found == {'a/1.png', 'b/1.png', 'b/deep/1.png', 'c/2.png'}
    done = call_tool('infer.py', SEGMENTOR, 'x.pth', tmp_path / 'a', tmp_path / 'none.png', '--out', tmp_path / 'o')
    assert done.returncode == 1
    assert done.stderr == f'error: {tmp_path}/none.png: no such file or folder, and no file matches it as a pattern\n'


def test_the_tool_fails_where_nothing_could_be_read(call_tool, toy_checkpoints, tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'hello')
    done = call_tool('infer.py', SEGMENTOR, toy_checkpoints['mmseg'], tmp_path / 'bad.jpg', '--out', tmp_path / 'out')
    assert done.returncode == 1
    assert '0 predicted, 1 skipped' in done.stdout
    assert done.stderr.splitlines()[-1].startswith('error: nothing in ')
    assert 'Traceback' not in done.stderr
