"""`mmtwins list`: every recipe with what is published, counted and started from; filters; JSON; narrow terminals."""

import io
import json
import sys
from pathlib import Path

import pytest
import recipes as shared

from mmtwins.analysis.published import RUNS
from mmtwins.analysis.published_classifiers import CLASSIFIERS
from mmtwins.commands.recipes import main, read_recipes
from mmtwins.engine.config_names import find_config, recipe_files

FOUND = {recipe.name: recipe for recipe in read_recipes()}


def listed(capsys: pytest.CaptureFixture, *argv: str) -> list[dict]:
    main([*argv, '--json'])
    return json.loads(capsys.readouterr().out)


def test_every_recipe_is_listed_once_by_the_name_that_finds_it() -> None:
    assert set(FOUND) == set(recipe_files()) and len(FOUND) == len(read_recipes())
    for name, recipe in FOUND.items():
        assert find_config(name) == recipe.config == str(recipe_files()[name])


def test_metrics_are_those_that_are_published() -> None:
    published = {name: run.metrics for name, run in RUNS.items()}
    published |= {name: {'Top 1 Accuracy': run.accuracy} for name, run in CLASSIFIERS.items()}
    assert set(published) <= set(FOUND)
    for name, recipe in FOUND.items():
        assert recipe.metrics == published.get(name, {}), name
        assert bool(recipe.source) == bool(recipe.metrics)


def test_starting_weights_and_costs_are_those_of_the_configs() -> None:
    pytest.importorskip('mmseg')
    pytest.importorskip('mmdet')
    from mmtwins.engine.config import load_config
    from mmtwins.engine.model import build_on_meta

    for name, recipe in FOUND.items():
        if name in CLASSIFIERS:  # tests/configs/test_imagenet.py counts them
            assert recipe.weights is None and recipe.task == 'classification'
            continue
        cfg = load_config(recipe.config)
        init_cfg = cfg.model.backbone.get('init_cfg')
        assert recipe.weights == (init_cfg.checkpoint if init_cfg else None), name
        assert recipe.task == dict(mmseg='segmentation', mmdet='detection')[cfg.default_scope], name
        if name not in RUNS and recipe.parameters:  # of RUNS, the test of the metafiles counts them
            built = build_on_meta(cfg)
            assert recipe.parameters == sum(parameter.numel() for parameter in built.parameters()), name
    assert {name for name, recipe in FOUND.items() if not recipe.macs} == {name for name in FOUND if 'toy' in name}
    assert set(shared.NAMES) <= set(FOUND)


def test_tasks_and_words_filter(capsys: pytest.CaptureFixture) -> None:
    names = [recipe['name'] for recipe in listed(capsys, '--task', 'detection')]
    assert names == [name for name, recipe in FOUND.items() if recipe.task == 'detection'] and len(names) > 20
    names = [recipe['name'] for recipe in listed(capsys, 'UPerNet', 'svt-l')]
    assert names == [
        'upernet_twins-svt-l_8xb2-160k_ade20k-512x512',
        'upernet_twins-svt-l_8xb2-160k-fsdp_ade20k-512x512',
    ]
    assert listed(capsys, 'zebra') == []
    with pytest.raises(SystemExit, match=r'^error: no recipe has zebra and fish: '):
        main(['zebra', 'fish'])


def test_a_table_has_whole_names_and_says_at_which_size(capsys: pytest.CaptureFixture) -> None:
    main(['upernet', 'svt-s'])
    text = capsys.readouterr().out
    (row,) = (line for line in text.splitlines() if 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512 ' in line)
    cells = [cell.strip() for cell in row.strip('│').split('│')]
    assert cells[1:] == ['mIoU 46.2', '53.9', '227.2 at 512x512', 'imagenet:svt-small']
    assert 'Semantic segmentation' in text and 'Object detection' not in text


def test_a_narrow_terminal_gets_whole_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, 'stdout', Terminal())
    monkeypatch.setenv('COLUMNS', '60')
    monkeypatch.setenv('NO_COLOR', '1')
    main(['mask-rcnn', 'svt-s', '1x_coco'])
    lines = sys.stdout.getvalue().splitlines()  # type: ignore[attr-defined]
    place = lines.index('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco')
    assert lines[place + 1] == (
        '  box AP 43.4, mask AP 40.3; 43.7 M parameters; 148.3 GMACs at 800x600; imagenet:svt-small'
    )


def test_the_files_are_those_of_the_checkout() -> None:
    configs = Path(__file__).parents[2] / 'configs'
    assert all(Path(recipe.config).is_relative_to(configs) for recipe in FOUND.values())
