"""tools/get_complexity.py: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest
from costs import UPERNET, count_config, require_libraries


def test_get_complexity_prints_and_writes_what_is_counted(call_tool, tmp_path: Path) -> None:
    complexity = count_config(UPERNET, 64, 64)
    done = call_tool(
        'get_complexity.py', UPERNET, '--size', '64x64', '--depth', 1, '--json', tmp_path / 'new' / 'costs.json'
    )
    assert done.returncode == 0, done.stderr
    assert f'Parameters 53.86 M, {complexity.total.macs / 1e9:.2f} GMACs' in done.stdout
    assert 'decode_head' in done.stdout
    assert 'patch_embeds' not in done.stdout
    assert '1 MAC = 2 FLOPs' in done.stdout
    written = json.loads((tmp_path / 'new' / 'costs.json').read_text())
    assert written == json.loads(json.dumps(complexity.to_dict()))
    assert written['total']['flops'] == 2 * complexity.total.macs


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([UPERNET, '--size', '16'], 'error: an image of 16 x 16 pixels is too small'),
        ([UPERNET, '--size', '64', '--cfg-options', 'model.backbone.arch=huge'], "arch='huge' is unknown"),
    ],
)
def test_get_complexity_says_what_is_wrong_in_one_line(arguments: list, message: str, call_tool) -> None:
    require_libraries()
    done = call_tool('get_complexity.py', *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
