"""A local page for a trained model: drop an image and see the prediction, click a point and see what it attends to."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..analysis.attention_figures import draw_attention
from ..analysis.inspection import inspect_image
from ..installing import how_to_install
from .predictor import Predictor

if TYPE_CHECKING:
    import gradio

MAX_PIXELS = 2**25  # of an image: a small file can hold a very large one
CACHE_SECONDS = 3600  # that uploaded and drawn pictures are kept


def build_app(predictor: Predictor) -> 'gradio.Blocks':
    """Build the page; serve it with :func:`serve`.

    Args:
        predictor: The model.

    Returns:
        Gradio's page. The model works on one picture at a time.

    Raises:
        ImportError: Gradio is not installed.
    """
    _require_gradio()
    import gradio as gr

    def predict(path: str | None) -> tuple[np.ndarray | None, None]:
        return (None if path is None else told(predict_file, predictor, path)), None

    def attend(path: str | None, event: gr.SelectData) -> np.ndarray | None:
        return None if path is None else told(attend_file, predictor, path, event.index)

    def told(function: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
        try:
            return function(*args)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    alone: dict[str, Any] = dict(concurrency_limit=1, concurrency_id='model', api_name=False)
    shown: dict[str, Any] = dict(interactive=False, format='png', show_label=False, buttons=[])
    with gr.Blocks(title='mmtwins', analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.Markdown(f'**{type(predictor.inferencer.model).__name__}**, {len(predictor.info.classes)} classes')
        with gr.Row():
            with gr.Column():
                gr.Markdown('Drop an image here, then click a point in it.')
                image = gr.Image(
                    type='filepath',
                    sources=['upload', 'clipboard'],
                    elem_id='image',
                    show_label=False,
                    buttons=[],
                )
                # Gradio would open the file, and tell of a damaged one with the server's paths.
                image.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
            with gr.Column():
                gr.Markdown('The prediction')
                prediction = gr.Image(elem_id='prediction', **shown)
        gr.Markdown('What the clicked point attends to')
        attention = gr.Image(elem_id='attention', **shown)
        image.change(predict, image, [prediction, attention], **alone)
        image.select(attend, image, attention, **alone)
    return page


def serve(
    page: 'gradio.Blocks', host: str = '127.0.0.1', port: int = 7860, max_megabytes: float = 20, block: bool = True
) -> str:
    """Serve a page. Only this machine can reach it, unless ``host`` says otherwise.

    Args:
        page: As :func:`build_app` returns it.
        host: Address to listen on; ``'0.0.0.0'`` lets every machine in the network use the page, without a password.
        port: Port to listen on.
        max_megabytes: Largest file that can be uploaded.
        block: Whether to return only when interrupted.

    Returns:
        Address of the page.

    Raises:
        OSError: Address or port cannot be used.
    """
    _require_gradio()
    import gradio as gr

    try:
        _, url, _ = page.queue(max_size=32).launch(
            server_name=host,
            server_port=port,
            max_file_size=round(1e6 * max_megabytes),
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=True,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            footer_links=[],
            prevent_thread_lock=True,
            theme=gr.themes.Default(
                font=['system-ui', 'sans-serif'], font_mono=['monospace']
            ),  # no fonts from elsewhere
        )
    except OSError:
        raise OSError(
            f'{host} port {port} cannot be used, or is in use: name another one with --port or --host'
        ) from None
    print(f'{url} (Ctrl+C ends it)', flush=True)
    if block:
        page.block_thread()
    return url


def predict_file(predictor: Predictor, path: str) -> np.ndarray:
    """Predict on an uploaded file.

    Returns:
        Overlay, (H, W, 3) RGB uint8.

    Raises:
        ValueError: It is no image, has more than ``MAX_PIXELS`` pixels, or is too small for the model.
    """
    reasons: list[str] = []
    for result in predictor([_read(predictor, path)], on_skip=lambda name, reason: reasons.append(reason)):
        return result.overlay()
    raise ValueError(reasons[0])


def attend_file(predictor: Predictor, path: str, point: tuple[int, int]) -> np.ndarray:
    """Draw what a point of an uploaded file attends to in every stage.

    Args:
        predictor: The model.
        path: File.
        point: x and y in pixels of the image, turned as its EXIF data say.

    Returns:
        Figure, (H, W, 3) RGB uint8.

    Raises:
        ValueError: As :func:`predict_file`; or the model has no Twins backbone, or the point is outside the image.
    """
    inspection = inspect_image(predictor.inferencer, _read(predictor, path), [(point[0], point[1])])
    with tempfile.TemporaryDirectory() as folder:
        figure = Image.open(draw_attention(inspection, Path(folder) / 'attention.png'))
        return np.asarray(figure.convert('RGB'))


def _read(predictor: Predictor, path: str) -> np.ndarray:
    """Pixels of a file, (H, W, 3) BGR, if it is not too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # PIL's own of many pixels
            with Image.open(path) as image:
                width, height = image.size
    except Exception:  # a damaged file fails anywhere in a decoder
        raise ValueError('this is no image, or a damaged one: take another file') from None
    if width * height > MAX_PIXELS:
        raise ValueError(f'{width} x {height} pixels are too many, at most {MAX_PIXELS} can be: make the image smaller')
    return predictor.read(path)


def _require_gradio() -> None:
    """Import Gradio for the first time, without its usage statistics; raises ImportError."""
    os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ImportError(f'the page needs Gradio ({error}): {how_to_install("app")}') from None
