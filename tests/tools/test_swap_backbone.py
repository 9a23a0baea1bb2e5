"""tools/swap_backbone.py: what it writes trains with tools/train.py and predicts with tools/infer.py."""

import pytest
from toys import SEGMENTOR

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')

BASE = """
_base_ = {toy!r}
channels = [64, 128, 256, 512]
model = dict(
    backbone=dict(_delete_=True, type='ResNetV1c', depth=18, norm_cfg=dict(type='BN')),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01))
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=1, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=1))
"""


@pytest.mark.slow
def test_a_swapped_config_trains_and_predicts(call_tool, toy_data, tmp_path) -> None:
    base, own, work_dir = tmp_path / 'base.py', tmp_path / 'own.py', tmp_path / 'work'
    base.write_text(BASE.format(toy=str(SEGMENTOR)))
    done = call_tool('swap_backbone.py', base, '--arch', 'pcpvt-s', '--out', own)
    assert done.returncode == 0, done.stderr
    data = f'data_root={toy_data / "ade"}'
    done = call_tool('train.py', own, '--work-dir', work_dir, '--from-scratch', '--cfg-options', data)
    assert done.returncode == 0, done.stderr
    (image, *_) = sorted((toy_data / 'ade/images/validation').glob('*.jpg'))
    done = call_tool('infer.py', own, work_dir / 'iter_1.pth', image, '--out', tmp_path / 'out', '--device', 'cpu')
    assert done.returncode == 0, done.stderr
    assert '1 predicted, 0 skipped' in done.stdout


def test_tools_take_names_of_the_libraries_and_say_what_is_wrong(call_tool, tmp_path) -> None:
    name = 'mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py'
    done = call_tool('train.py', name, '--work-dir', tmp_path / 'work')
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert 'data/cityscapes' in done.stderr  # the config is read, the data are not here
    done = call_tool('swap_backbone.py', 'mmseg::fcn/fcn_r5.py', '--out', tmp_path / 'own.py')
    assert done.returncode == 1
    assert done.stderr.startswith('error: config mmseg::fcn/fcn_r5.py, which mmseg does not have')
