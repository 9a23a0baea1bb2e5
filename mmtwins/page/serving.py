"""Serve the page on this machine only, with a private folder that is deleted when the program ends."""

import atexit
import os
import shutil
import signal
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..installing import how_to_install
from .gate import Gate

if TYPE_CHECKING:
    import gradio

STYLE = Path(__file__).with_name('page.css')


def serve(
    page: 'gradio.Blocks', host: str = '127.0.0.1', port: int = 7860, max_megabytes: float = 20, block: bool = True
) -> str:
    """Serve a page. Only this machine can reach it, unless ``host`` is another address.

    Args:
        page: As :func:`mmtwins.page.controls.build_app` returns it.
        host: Address to listen on; ``'0.0.0.0'`` lets every machine in the network use the page, without a password.
        port: Port to listen on.
        max_megabytes: Largest file that can be uploaded, in megabytes (1e6 bytes).
        block: Whether to return only after an interrupt.

    Returns:
        Address of the page.

    Raises:
        OSError: Address or port cannot be used.
    """
    require_gradio()
    import gradio as gr
    from starlette.middleware import Middleware

    max_bytes = round(1e6 * max_megabytes)
    try:
        _, url, _ = page.queue(max_size=32).launch(
            server_name=host,
            server_port=port,
            max_file_size=max_bytes,
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=False,  # messages of errors may hold paths
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            prevent_thread_lock=True,
            app_kwargs=dict(middleware=[Middleware(Gate, folder=private_folder(), max_bytes=max_bytes)]),
            theme=gr.themes.Default(
                font=['system-ui', 'sans-serif'], font_mono=['monospace']
            ),  # no fonts from other hosts
            css_paths=STYLE,
        )
    except OSError:
        raise OSError(
            f'{host} port {port} cannot be used, or is in use: name another one with --port or --host'
        ) from None
    print(f'{url} (Ctrl+C ends it)', flush=True)
    if block:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is deleted
        page.block_thread()
    return url


@lru_cache
def private_folder() -> Path:
    """The folder of all files that the pages of this process write. Other users cannot read it; it is deleted at exit."""
    folder = Path(tempfile.mkdtemp(prefix='mmtwins-page-')).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require_gradio() -> None:
    """Import Gradio, with its usage statistics off and its files in our private folder.

    Raises:
        ImportError: Gradio is not installed.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_TEMP_DIR'] = str(private_folder())
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(f'the page needs Gradio ({error}): {how_to_install("app")}') from None
