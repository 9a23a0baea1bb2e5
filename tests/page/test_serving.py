"""The server of the page: where it listens, whose files it serves. tests/page/test_gate.py tests what it refuses."""

import os
import re
import socket
import stat
import sys

import pytest

from mmtwins.installing import how_to_install
from mmtwins.page import serving
from mmtwins.page.controls import build_app


def test_the_folder_of_uploads_is_closed_to_other_users():
    folder = serving.private_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder == serving.private_folder()


def test_without_gradio_one_line_says_what_to_install(segmentor, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ImportError, match=re.escape(how_to_install('app'))):
        build_app(segmentor)


def test_a_port_in_use_is_named(segmentor):
    pytest.importorskip('gradio')
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f'port {port} cannot be used'):
            serving.serve(build_app(segmentor), port=port, block=False)
    assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'
    assert os.environ['GRADIO_TEMP_DIR'] == str(serving.private_folder())
