"""Let requests for the page's own routes and files through to Gradio, and refuse all others."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = '/gradio_api'
GET = ('/', '/config', '/theme.css', '/favicon.ico', '/manifest.json', '/robots.txt', f'{API}/startup-events', f'{API}/queue/data', f'{API}/upload_progress', f'{API}/app_id')  # fmt: skip  # noqa: E501
GET_BELOW = ('/assets/', '/static/', f'{API}/heartbeat/')
POST = (f'{API}/queue/join', f'{API}/upload', f'{API}/reset', f'{API}/cancel')
FILE = f'{API}/file='
MAX_MESSAGE = 2**20  # bytes of a request that is no upload
HEADERS = {
    # The page needs nothing from other hosts, so browsers must not load anything from there.
    'content-security-policy': "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: "
    "blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
}


class Gate:
    """ASGI middleware that refuses every request but those the page makes.

    Gradio also has routes that fetch other addresses, run functions without the queue, change the page or record it.

    Args:
        app: Gradio's application, which answers the requests of the page.
        folder: The only folder that files are served from. Requests may not name files outside it.
        max_bytes: Largest upload, in bytes.
    """

    def __init__(self, app: 'ASGIApp', folder: Path, max_bytes: int) -> None:
        self._app, self._folder, self._max_bytes = app, os.path.realpath(folder), max_bytes

    async def __call__(self, scope: 'Scope', receive: 'Receive', send: 'Send') -> None:
        if scope['type'] == 'lifespan':
            await self._app(scope, receive, send)
            return
        if scope['type'] != 'http':
            return
        status, text = self._judge(scope)
        body: bytes | None = None
        if not status and scope['path'].rstrip('/') == f'{API}/queue/join':
            body = await _read_all(receive)
            if not all(map(self._is_ours, _paths_in(body))):
                status, text = 403, 'The request names a file outside the page: choose the image again.'
        if status:
            await _answer(send, status, text)
            return

        async def give_body() -> 'Message':
            nonlocal body
            if body is None:
                return await receive()
            message, body = {'type': 'http.request', 'body': body, 'more_body': False}, None
            return message

        started = False

        async def send_with_headers(message: 'Message') -> None:
            nonlocal started
            if message['type'] == 'http.response.start':
                started = True
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, 'headers': [*message.get('headers', ()), *added]}
            await send(message)

        try:
            await self._app(scope, give_body, send_with_headers)
        except Exception:  # Gradio fails on requests that its page never sends
            if started:
                raise
            await _answer(send, 400, 'The request cannot be understood.')

    def _judge(self, scope: 'Scope') -> tuple[int, str]:
        """Status and text of a refusal; 0 if there is none."""
        method, path = scope['method'], scope['path']
        if method in ('GET', 'HEAD'):
            if path.startswith(FILE):
                allowed = self._is_ours(unquote(path.removeprefix(FILE))) and self._is_ours(path.removeprefix(FILE))
            else:
                allowed = path in GET or (path.startswith(GET_BELOW) and '..' not in path)
            return (0, '') if allowed else (403, 'This is not part of the page.')
        if method != 'POST' or path.rstrip('/') not in POST:
            return 403, 'This is not part of the page.'
        length = dict(scope['headers']).get(b'content-length', b'')
        if not length.isdigit():
            return 411, 'The request does not state its length.'
        most = self._max_bytes + MAX_MESSAGE if path.rstrip('/') == f'{API}/upload' else MAX_MESSAGE
        if int(length) > most:
            return 413, f'The file is too large: at most {self._max_bytes / 1e6:g} MB can be uploaded. Make it smaller.'
        return 0, ''

    def _is_ours(self, path: str) -> bool:
        """Whether a path, links followed, is inside the page's folder."""
        try:
            return os.path.realpath(path).startswith(os.path.join(self._folder, ''))
        except ValueError:  # a zero byte
            return False


async def _read_all(receive: 'Receive') -> bytes:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get('body', b''))
        more = message.get('more_body', False)
    return b''.join(parts)


def _paths_in(body: bytes) -> Iterable[str]:
    """The files that a message names, at any depth; a URL in place of a file counts."""
    try:
        left: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return  # refused by Gradio
    while left:
        one = left.pop()
        if isinstance(one, dict):
            path = one.get('path')
            if isinstance(path, str):
                yield path
            left += one.values()
        elif isinstance(one, list):
            left += one


async def _answer(send: 'Send', status: int, text: str) -> None:
    headers = [(b'content-type', b'text/plain; charset=utf-8'), (b'connection', b'close')]
    headers += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': text.encode()})
