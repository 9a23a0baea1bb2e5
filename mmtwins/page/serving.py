"""Serve the page: on this machine alone, with a folder of its own that ends with the program."""

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
    """Serve a page. Only this machine can reach it, unless ``host`` says otherwise.

    Args:
        page: As :func:`mmtwins.page.controls.build_app` returns it.
        host: Address to listen on; ``'0.0.0.0'`` lets every machine in the network use the page, without a password.
        port: Port to listen on.
        max_megabytes: Largest file that can be uploaded.
        block: Whether to return only when interrupted.

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
            show_error=False,  # a fault's text may hold paths
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
            ),  # no fonts from elsewhere
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
    """The folder of everything that the pages of this process write, which others cannot read; deleted at its end."""
    folder = Path(tempfile.mkdtemp(prefix='mmtwins-page-')).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def require_gradio() -> None:
    """Import Gradio for the first time, without its usage statistics and with our folder for its files.

    Raises:
        ImportError: It is not installed.
    """
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    os.environ['GRADIO_TEMP_DIR'] = str(private_folder())
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(f'the page needs Gradio ({error}): {how_to_install("app")}') from None
