"""The README: the first snippet gives what it states, every link and command exists."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / 'README.md').read_text()
SNIPPETS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


def test_python_snippet_gives_the_shapes_it_states() -> None:
    (snippet,) = (snippet for snippet in SNIPPETS if 'model = TwinsSVTBackbone' in snippet)
    scope: dict = {}
    exec(snippet, scope)
    stated = re.findall(r'\((\d+(?:, \d+){3})\)', snippet.splitlines()[-1].split('#')[1])
    assert [', '.join(map(str, m.shape)) for m in scope['maps']] == stated


def test_links_and_paths_exist() -> None:
    for target in re.findall(r'\]\((?!https?://)([^)#]+)', README):
        assert (REPOSITORY / target).exists(), target
    for path in re.findall(r'(?:configs|tools)/[\w/.-]+\.(?:py|sh)', README):
        assert (REPOSITORY / path).is_file(), path


def test_git_ignores_what_the_commands_write() -> None:
    ignored = (REPOSITORY / '.gitignore').read_text().split()
    folders = re.findall(r'--(?:out|show-dir) (\w+)(?![\w./])', README)
    assert {'predicted', 'painted'} <= set(folders) <= {name.lstrip('/') for name in ignored}
    assert 'model.onnx' in README and '/*.onnx' in ignored


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r'\b[A-Z]+_[A-Z]+\b|TODO|XXX', re.sub(r'```.*?```|`.*?`', '', README, flags=re.DOTALL))
