"""The README's code: every config snippet builds its model, the Python snippet runs, every link and command exists."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
CONFIG_SNIPPETS = [snippet for snippet in SNIPPETS if 'model = TwinsSVTBackbone' not in snippet]


@pytest.mark.parametrize('snippet', CONFIG_SNIPPETS, ids=['mmseg', 'mmdet', 'lazy'])
def test_config_snippets_build(snippet: str, tmp_path: Path) -> None:
    mmseg = pytest.importorskip('mmseg.registry')
    mmdet = pytest.importorskip('mmdet.registry')
    path = tmp_path / 'config.py'
    path.write_text(snippet)
    cfg = Config.fromfile(path)
    registry = {'mmseg': mmseg, 'mmdet': mmdet}[cfg.default_scope].MODELS
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = registry.build(cfg.model)
    assert type(model.backbone).__name__ == 'TwinsSVTBackbone'
    channels = model.backbone.patch_embeds[-1].proj.out_channels
    expected = (model.decode_head if cfg.default_scope == 'mmseg' else model.neck).in_channels
    assert channels == (expected if isinstance(expected, int) else expected[-1])
    assert 'resnet' not in str(cfg.model.get('pretrained'))


def test_python_snippet_gives_the_shapes_it_states() -> None:
    (snippet,) = set(SNIPPETS) - set(CONFIG_SNIPPETS)
    scope: dict = {}
    exec(snippet, scope)
    stated = re.findall(r'\((\d+(?:, \d+){3})\)', snippet.splitlines()[-1].split('#')[1])
    assert [', '.join(map(str, m.shape)) for m in scope['maps']] == stated


def test_links_and_paths_exist() -> None:
    for target in re.findall(r'\]\((?!https?://)([^)#]+)', README):
        assert (REPOSITORY / target).exists(), target
    for path in re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh)', README):
        assert (REPOSITORY / path).is_file(), path


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r'\b[A-Z]+_[A-Z]+\b|TODO|XXX', re.sub(r'```.*?```|`.*?`', '', README, flags=re.DOTALL))
