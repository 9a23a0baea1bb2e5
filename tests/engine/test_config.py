"""Configs and ``--cfg-options``: what changes in them, and what is refused."""

import importlib.util
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmtwins import TwinsSVTBackbone
from mmtwins.engine.config import load_config
from mmtwins.installing import how_to_install

CONFIGS = Path(__file__).parents[2] / 'configs'


def write_config(folder: Path, text: str) -> str:
    path = folder / 'config.py'
    path.write_text(text)
    return str(path)


def test_data_root_replaces_the_root_everywhere_and_nothing_else(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        "data_root = 'data/coco/'\n"
        "a = dict(data_root=data_root, other='data/coco_extra', more=[dict(ann=data_root + 'annotations/x.json')])\n"
        "pair = ('data/coco', 'x/data/coco')\n",
    )
    cfg = load_config(path, {'data_root': str(tmp_path / 'elsewhere'), 'a.new': 3})
    root = str(tmp_path / 'elsewhere')
    assert cfg.data_root == cfg.a.data_root == root
    assert cfg.a.more[0].ann == f'{root}/annotations/x.json'
    assert cfg.a.other == 'data/coco_extra'
    assert cfg.a.new == 3
    assert tuple(cfg.pair) == (root, 'x/data/coco')
    assert cfg.filename == path


@pytest.mark.parametrize('old', ["''", 'None', "'/'"])
def test_data_root_of_a_config_without_one_replaces_nothing(old: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, f"data_root = {old}\na = dict(empty='', absolute='/abs/path')\n")
    cfg = load_config(path, {'data_root': 2017})
    assert cfg.data_root == '2017'
    assert cfg.a == dict(empty='', absolute='/abs/path')


@pytest.mark.parametrize(
    ('given', 'expected'), [('x/', 'x'), ('~/x', f'{Path.home()}/x'), ('s3://bucket/x', 's3://bucket/x')]
)
def test_data_root_is_taken_as_a_shell_would(given: str, expected: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, "data_root = 'data/a'\nb = f'{data_root}/b'\n")
    assert load_config(path, {'data_root': given}).b == f'{expected}/b'


def test_data_root_of_a_lazy_config_keeps_it_lazy(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        'from mmtwins import TwinsSVTBackbone\n'
        "data_root = 'data/a'\n"
        "model = dict(type=TwinsSVTBackbone, pair=(data_root, 1), more=[dict(ann=data_root + '/x.json')])\n",
    )
    cfg = load_config(path, {'data_root': '/n'})
    cfg.dump(tmp_path / 'dumped.py')  # as the Runner does
    dumped = Config.fromfile(tmp_path / 'dumped.py')
    assert dumped.model.type in (
        TwinsSVTBackbone,
        'mmtwins.TwinsSVTBackbone',
        'mmtwins.models.backbone.TwinsSVTBackbone',
    )
    assert tuple(dumped.model.pair) == ('/n', 1)
    assert dumped.model.more[0].ann == '/n/x.json'


def test_imagenet_weights_are_named_by_two_options() -> None:
    for path in [*(CONFIGS / 'ade20k').glob('*-s_*.py'), *(CONFIGS / 'coco').glob('*-s_*.py')]:
        cfg = load_config(
            str(path),
            {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'a.pth'},
        )
        assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth')


@pytest.mark.parametrize(
    ('text', 'options', 'message'),
    [
        ('a = 1', {'a.b.c': 2}, r'--cfg-options a\.b\.c=2: they do not fit .*config\.py: a=.*: correct the names'),
        ('a = [1]', {'a.7.c': 2}, r'--cfg-options a\.7\.c=2: .*config\.py: Index 7 exceeds the length of list'),
        ('a = (', {}, r"config\.py, line 1: '\(' was never closed: correct the file"),
        ('a = 1 / 0', {}, r'config\.py, line 1: ZeroDivisionError: division by zero'),
        ('import sys\nsys.exit(3)', {}, r'config\.py ends the program \(3\)'),
        ("_base_ = 'config.py'", {}, r'config\.py inherits itself'),
        ('models = dict()', {}, r'config\.py: models is not read by anything: do you mean model\?'),
    ],
)
def test_what_is_no_config_or_no_option_of_it_is_refused(
    text: str, options: dict, message: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        load_config(path, options)


def test_options_are_applied_together(tmp_path: Path) -> None:
    path = write_config(tmp_path, 'a = dict(b=1, c=2)')
    assert load_config(path, {'a.d': 3, 'a._delete_': True}).a == dict(d=3)


def test_config_that_imports_what_is_missing_says_what_to_install(tmp_path: Path) -> None:
    path = write_config(tmp_path, "custom_imports = dict(imports=['not_there'])")
    with pytest.raises(ImportError, match=r'(?s)config\.py: .*not_there.*make setup'):
        load_config(path)


def test_missing_config_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r'config nowhere/a\.py does not exist'):
        load_config('nowhere/a.py')


@pytest.mark.parametrize(('scope', 'extra'), [('mmseg', 'seg'), ('mmdet', 'det')])
def test_missing_library_says_what_to_install(tmp_path: Path, monkeypatch, scope: str, extra: str) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    path = write_config(tmp_path, f'default_scope = {scope!r}')
    with pytest.raises(ImportError, match=rf'needs {scope} and mmcv.*{re.escape(how_to_install(extra))}'):
        load_config(path)
