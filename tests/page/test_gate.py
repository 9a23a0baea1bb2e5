"""The gate: what the page needs passes, everything else is refused before Gradio sees it."""

import asyncio
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from mmtwins.page.gate import API, Gate


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / 'page'
    folder.mkdir()
    (folder / 'own.png').touch()
    (tmp_path / 'secret.txt').touch()
    (folder / 'link').symlink_to(tmp_path / 'secret.txt')
    (tmp_path / 'page-2').mkdir()
    (tmp_path / 'page-2' / 'x.png').touch()
    return folder


def ask(folder: Path, method: str, path: str, body: bytes = b'', length: object = None) -> tuple[int, dict, bytes]:
    """Status, headers and body; 200 where the application behind the gate was reached, which gives the body back."""
    sent: list[dict] = []
    parts = [body[:10], body[10:]]

    async def app(scope, receive, send):
        content, more = b'', True
        while more and scope['method'] == 'POST':
            message = await receive()
            content, more = content + message['body'], message.get('more_body', False)
        if b'fail' in content:
            raise KeyError(999)
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': content})

    async def receive():
        return {'type': 'http.request', 'body': parts.pop(0), 'more_body': bool(parts)}

    async def send(message):
        sent.append(message)

    length = len(body) if length is None else length
    headers = [(b'content-length', str(length).encode())] if length != '' else []
    scope = dict(type='http', method=method, path=path, headers=headers)
    asyncio.run(Gate(app, folder, max_bytes=1000)(scope, receive, send))
    return sent[0]['status'], dict(sent[0]['headers']), sent[1]['body']


@pytest.mark.parametrize(
    'path',
    ['/', '/config', '/theme.css', '/assets/index.js', f'{API}/heartbeat/abc', f'{API}/queue/data', '/favicon.ico'],
)
def test_what_the_page_loads_passes(folder, path):
    assert ask(folder, 'GET', path)[0] == 200


@pytest.mark.parametrize(
    'path',
    [
        f'{API}/proxy=http://example.org',
        f'{API}/file=http://example.org/x.png',
        f'{API}/run/predict',
        f'{API}/info',
        f'{API}/openapi.json',
        f'{API}/vibe-code',
        f'{API}/deep_link',
        f'{API}/stream/x/1/2/playlist-file',
        '/assets/../../etc/passwd',
        '/monitoring',
        '/docs',
        '/custom_component/x',
    ],
)
def test_other_routes_are_refused(folder, path):
    for method in ('GET', 'POST', 'PUT'):
        status, headers, _ = ask(folder, method, path)
        assert status == 403
        assert b"default-src 'self'" in headers[b'content-security-policy']


def test_only_files_of_the_page_are_given(folder):
    def file(path: object) -> int:
        return ask(folder, 'GET', f'{API}/file={path}')[0]

    assert file(folder / 'own.png') == 200
    for path in (
        '/etc/passwd',
        folder,
        folder / 'link',
        folder.parent / 'secret.txt',
        folder / '..' / 'secret.txt',
        f'{folder}/%2e%2e/secret.txt',
        quote(f'{folder}/../secret.txt', safe=''),
        folder.parent / 'page-2' / 'x.png',
        'own.png',
        'C:\\windows\\win.ini',
        '\0',
        '',
    ):
        assert file(path) == 403, path


def test_messages_may_name_files_of_the_page_alone(folder):
    def join(content: object) -> tuple[int, bytes]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        status, _, answer = ask(folder, 'POST', f'{API}/queue/join', body)
        return status, answer

    def image(path: str) -> dict:
        return {'data': [{'path': path, 'meta': {'_type': 'gradio.FileData'}}], 'fn_index': 0}

    own = image(str(folder / 'own.png'))
    assert join(own) == (200, json.dumps(own).encode())  # arrives whole
    assert join({'data': [None, 0.3]})[0] == 200
    for path in ('/etc/passwd', str(folder / 'link'), f'{folder}/../secret.txt', 'http://example.org/x.png', 'a\0b'):
        assert join(image(path))[0] == 403, path
        assert join({'event_data': {'deep': [[image(path)]]}})[0] == 403, path
    assert join(b'no json')[0] == 200  # which Gradio refuses


def test_requests_are_limited_in_size(folder):
    assert ask(folder, 'POST', f'{API}/upload', length=1000 + 2**20)[0] == 200
    status, _, text = ask(folder, 'POST', f'{API}/upload', length=1001 + 2**20)
    assert status == 413 and b'at most 0.001 MB' in text
    assert ask(folder, 'POST', f'{API}/queue/join', length=2**20 + 1)[0] == 413
    assert ask(folder, 'POST', f'{API}/upload', length='')[0] == 411
    assert ask(folder, 'POST', f'{API}/upload', length='x')[0] == 411


def test_a_request_that_gradio_does_not_understand_ends_in_a_sentence(folder):
    assert ask(folder, 'POST', f'{API}/queue/join', b'{"data": [], "fail": 1}')[0] == 400
