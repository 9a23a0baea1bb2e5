"""Painting, test-time augmentation and written predictions, as changes to a config."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins.engine.evaluation import augment_at_test_time, make_folder, paint_predictions, write_predictions


def make_config(library: str, **values: object) -> Config:
    hooks = dict(visualization=dict(type='Hook'))
    dataset = dict(type='RepeatDataset', dataset=dict(type='Inner', pipeline=['own']))
    content = dict(default_scope=library, default_hooks=hooks, visualizer=dict(type='V'), model=dict(type='M'))
    return Config({**content, 'test_dataloader': dict(dataset=dataset), 'test_evaluator': dict(type='E'), **values})


def test_painted_predictions_go_where_the_library_looks() -> None:
    cfg = make_config('mmseg')
    paint_predictions(cfg, 'folder')
    assert cfg.default_hooks.visualization == dict(type='Hook', draw=True, interval=1, show=False)
    assert cfg.visualizer.save_dir == 'folder'
    cfg = make_config('mmdet')
    paint_predictions(cfg, 'folder', wait_time=0.5)
    hook = cfg.default_hooks.visualization
    assert hook.test_out_dir == str(Path('folder').resolve()) and hook.show and hook.wait_time == 0.5
    assert 'save_dir' not in cfg.visualizer
    cfg = make_config('mmpretrain')
    paint_predictions(cfg, 'folder', wait_time=0.5)
    assert cfg.default_hooks.visualization == dict(
        type='Hook', enable=True, interval=1, show=True, out_dir='folder', wait_time=0.5
    )


def test_painting_needs_a_hook() -> None:
    with pytest.raises(ValueError, match='has no visualization hook in default_hooks'):
        paint_predictions(make_config('mmseg', default_hooks=dict()), 'folder')


def test_augmentation_wraps_the_model_and_replaces_the_innermost_pipeline() -> None:
    cfg = make_config('mmseg', tta_model=dict(type='TTA'), tta_pipeline=['scaled'])
    augment_at_test_time(cfg)
    assert cfg.model == dict(type='TTA', module=dict(type='M'))
    assert cfg.test_dataloader.dataset.dataset.pipeline == ['scaled']
    with pytest.raises(ValueError, match='has no tta_model and tta_pipeline'):
        augment_at_test_time(make_config('mmdet'))


def test_predictions_are_written_in_the_format_of_their_library() -> None:
    cfg = make_config('mmseg')
    write_predictions(cfg, 'out')
    assert cfg.test_evaluator == dict(type='E', output_dir='out', keep_results=True)
    cfg = make_config('mmdet')
    write_predictions(cfg, 'out.pkl')
    assert cfg.test_evaluator == [dict(type='E'), dict(type='DumpDetResults', out_file_path='out.pkl')]
    cfg = make_config('mmpretrain')
    write_predictions(cfg, 'out.pkl')
    assert cfg.test_evaluator == [dict(type='E'), dict(type='DumpResults', out_file_path='out.pkl')]
    for library, owner in (('mmdet', 'detector'), ('mmpretrain', 'classifier')):
        with pytest.raises(ValueError, match=rf'--out out: predictions of a {owner} go into a \.pkl file'):
            write_predictions(make_config(library), 'out')


@pytest.mark.parametrize(('out', 'folder'), [('a/b', 'a/b'), ('a/b.pkl', 'a')])
def test_every_process_makes_the_folder_of_the_predictions(out: str, folder: str, tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(str(tmp_path / out))
    assert (tmp_path / folder).is_dir()
    assert not (tmp_path / 'a' / 'b.pkl').exists()
