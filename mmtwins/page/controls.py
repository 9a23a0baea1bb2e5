"""The page: its controls and their events."""

import json
import tempfile
import traceback
from collections.abc import Callable
from functools import partial, wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..inference.predictor import Predictor
from .about import as_html, describe
from .asking import Model, write_files
from .heat import AVERAGE, KINDS, draw_heat
from .offered import gather_examples
from .serving import private_folder, require_gradio
from .sessions import Session, Sessions
from .view import PALETTES, choose_colours, make_view

if TYPE_CHECKING:
    import gradio

CACHE_SECONDS = 3600  # age of files to delete, where no closed tab has deleted them; also the time between two looks
SCRIPT = Path(__file__).with_name('page.js')
VIEW = """
<figure class="stage" hidden>
  <div class="layers"><img alt="the image"><canvas class="paint" role="img"></canvas><canvas class="notes" aria-hidden="true">
  </canvas></div>
</figure>
<p class="found" role="status"></p>
<ul class="legend" aria-label="Legend"></ul>
"""
SPOKEN = '<p role="status" aria-live="polite">${value}</p>'
START = 'Choose an image, or an example below it.'
WAIT = 'Predicting …'
LOOK = 'Looking …'
FILES = {
    'overlay': 'Download the overlay',
    'labels': 'Download the label image',
    'json': 'Download the JSON',
    'images': 'Download its images JSON',
}


def build_app(predictor: Predictor, examples: str | Path | None = None) -> 'gradio.Blocks':
    """Build the page; serve it with :func:`mmtwins.page.serving.serve`.

    Args:
        predictor: The model.
        examples: Folder of example images; None generates scenes.

    Returns:
        Gradio's page. The model works on one image at a time.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ImportError: Gradio is not installed.
    """
    require_gradio()
    import gradio as gr

    model, about = Model(predictor), describe(predictor)
    sessions = Sessions(private_folder())
    folder = Path(tempfile.mkdtemp(dir=private_folder(), prefix='examples-'))
    samples = gather_examples(examples, predictor.info.classes, folder)
    alone: dict[str, Any] = dict(concurrency_limit=1, concurrency_id='model', api_name=False, show_progress='hidden')
    local: dict[str, Any] = dict(api_name=False)
    quick: dict[str, Any] = dict(concurrency_limit=4, api_name=False, show_progress='hidden')
    kinds = [kind for kind in KINDS if any(kind in stage for stage in model.stages)]

    with gr.Blocks(title=about.title, analytics_enabled=False, delete_cache=(CACHE_SECONDS, CACHE_SECONDS)) as page:
        gr.HTML(as_html(about), elem_id='about')
        with gr.Row(elem_id='main'):
            with gr.Column(min_width=300, elem_id='input'):
                image = gr.Image(
                    type='filepath',
                    sources=['upload', 'webcam', 'clipboard'],
                    elem_id='image',
                    label='Your image',
                    buttons=[],
                    height=380,
                    placeholder='Drop an image here, paste one, or click to choose a file',
                    alt_text='Your image. Click a point in it to see what it attends to.',
                )
                # Gradio would open the file, and its message about a damaged one would show paths of the server.
                image.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
                gallery = gr.Dataset(
                    components=[gr.Image(visible=False)],
                    samples=[[str(sample)] for sample in samples],
                    type='index',
                    label='Examples',
                    elem_id='examples',
                    samples_per_page=len(samples),
                )
            with gr.Column(min_width=300, elem_id='output'):
                status = gr.HTML(START, html_template=SPOKEN, elem_id='status')
                view = gr.HTML(html_template=VIEW, js_on_load=SCRIPT.read_text(encoding='utf-8'), elem_id='prediction')
            with gr.Column(min_width=300, elem_id='controls'):
                opacity = gr.Slider(0, 100, 60, step=1, label='Opacity in percent', elem_id='opacity')
                threshold = gr.Slider(
                    model.lowest,
                    1,
                    model.threshold,
                    step=0.01,
                    label='Lowest score shown',
                    elem_id='threshold',
                    visible=model.is_detector,
                )
                palette = gr.Dropdown(
                    [(text, name) for name, text in PALETTES.items()], value='model', label='Colours', elem_id='palette'
                )
                with gr.Row(elem_id='downloads'):
                    left_out = 'labels' if model.is_detector else 'images'
                    buttons = {
                        what: gr.Button(text, interactive=False, min_width=130, size='md', elem_id=f'download-{what}')
                        for what, text in FILES.items()
                        if what != left_out
                    }
                file = gr.File(visible=False)
        with gr.Row(visible=bool(model.stages), elem_id='attending'):
            with gr.Column(min_width=300, elem_id='asking'):
                gr.HTML('<h2>What a point attends to</h2><p>Click a point in your image, or type where it is.</p>')
                with gr.Row():
                    x = gr.Number(None, label='x in pixels', precision=0, minimum=0, elem_id='x', min_width=100)
                    y = gr.Number(None, label='y in pixels', precision=0, minimum=0, elem_id='y', min_width=100)
                look = gr.Button('Look from this point', interactive=False, elem_id='look', size='md')
                stages = [str(i) for i in range(1, len(model.stages) + 1)]
                stage = gr.Radio(stages, value='1', label='Stage', elem_id='stage')
                kind = gr.Radio(
                    [(KINDS[one], one) for one in kinds],
                    value=kinds[0] if kinds else None,
                    label='Attention',
                    elem_id='kind',
                )
                heads = _heads(model, '1', kinds[0]) if kinds else []
                head = gr.Dropdown(heads, value=AVERAGE, label='Head', elem_id='head')
            with gr.Column(min_width=300):
                caption = gr.HTML('', html_template=SPOKEN, elem_id='attention-caption')
                attention = gr.Image(
                    interactive=False, format='png', show_label=False, buttons=[], elem_id='attention', visible=False
                )

        nothing = gr.update(visible=False, value=None)
        closed = tuple(gr.update(interactive=False) for _ in (*buttons, look))
        ready = tuple(gr.update(interactive=True) for _ in (*buttons, look))
        results = [status, view, attention, caption, x, y, *buttons.values(), look]

        @_told(lambda text: (text, dict(kind='none'), nothing, '', None, None, *closed))
        def show(path: str | None, request: gr.Request) -> tuple:
            key = str(request.session_hash)
            if path is None:
                sessions.close(key)
                return START, dict(kind='none'), nothing, '', None, None, *closed
            upload = None if Path(path) in samples else Path(path)
            try:
                found = model.predict(path)
            except ValueError:
                sessions.close(key)
                if upload:
                    sessions.discard(upload)
                raise
            sessions.open(key, Session(found.kept, upload))
            text = f'Predicted in {found.seconds:.2f} s.'
            text += f' The image {found.note}.' if found.note else ''
            return escape(text), make_view(found.kept), nothing, '', None, None, *ready

        def heat_of(request: gr.Request, stage: str, kind: str, head: int) -> tuple:
            session = sessions.get(str(request.session_hash))
            inspection = session.inspection  # another event may replace it meanwhile
            if inspection is None:
                return nothing, ''
            heat = draw_heat(inspection, int(stage), kind, int(head))
            bar = f'<span class="bar">0 % <i aria-hidden="true"></i> {heat.largest:.3g} %</span>'

            def write(folder: Path) -> dict[str, str]:
                Image.fromarray(heat.picture).save(folder / 'attention.png')
                return {'picture': str(folder / 'attention.png')}

            choices = (inspection.maps[0].point, stage, kind, head)
            made = sessions.make_files(session, 'heat', choices, write)
            return gr.update(value=made['picture'], visible=True), f'{escape(heat.caption)} {bar}'

        @_told(lambda text: (gr.skip(), gr.skip(), nothing, text))
        def click(stage: str, kind: str, head: int, request: gr.Request, event: gr.EventData) -> tuple:
            return look_from(int(event.x), int(event.y), stage, kind, head, request)

        @_told(lambda text: (gr.skip(), gr.skip(), nothing, text))
        def ask(x: int | None, y: int | None, stage: str, kind: str, head: int, request: gr.Request) -> tuple:
            if x is None or y is None:
                raise ValueError('x or y is missing: type both, or click a point in your image')
            return look_from(x, y, stage, kind, head, request)

        def look_from(x: int, y: int, stage: str, kind: str, head: int, request: gr.Request) -> tuple:
            session = sessions.get(str(request.session_hash))
            session.inspection = model.inspect(session.kept, x, y)
            return x, y, *heat_of(request, stage, kind, head)

        @_told(lambda text: (gr.skip(), nothing, text))
        def choose(stage: str, kind: str, head: int, request: gr.Request) -> tuple:
            choices = _heads(model, stage, kind)
            head = head if head in dict(choices).values() else AVERAGE
            return gr.update(choices=choices, value=head), *heat_of(request, stage, kind, head)

        def download_as(what: str) -> Callable:
            @_told(lambda text: (None, text))
            def download(lowest: float, colours: str, request: gr.Request) -> tuple:
                session = sessions.get(str(request.session_hash))
                write = partial(write_files, session.kept, lowest, choose_colours(colours, session.kept))
                return sessions.make_files(session, 'download', (lowest, colours), write)[what], gr.skip()

            return download

        def close(request: gr.Request) -> None:
            sessions.close(str(request.session_hash))

        image.change(None, image, status, js=f'(file) => file ? {json.dumps(WAIT)} : {json.dumps(START)}', **local)
        image.change(show, image, results, **alone)
        gallery.click(lambda index: str(samples[index]), gallery, image, **quick)
        shown: dict[str, Any] = dict(opacity=opacity, threshold=threshold, palette=palette)
        for name, control in shown.items():
            control.change(
                None, control, js=f'(value) => window.mmtwins.set({json.dumps(name)}, value)', api_name=False
            )
        for what, button in buttons.items():
            made = button.click(download_as(what), [threshold, palette], [file, status], **quick)
            made.then(None, file, js='(file) => window.mmtwins.save(file)', **local)
        chosen, drawn = [stage, kind, head], [attention, caption]
        looking = f'() => {json.dumps(LOOK)}'
        gr.on([look.click, x.submit, y.submit], None, None, caption, js=looking, **local)
        view.point(None, None, caption, js=looking, **local)
        view.point(click, chosen, [x, y, *drawn], **alone)
        gr.on([look.click, x.submit, y.submit], ask, [x, y, *chosen], [x, y, *drawn], **alone)
        for number in (x, y):
            number.change(None, [x, y], js='(x, y) => window.mmtwins.mark(x, y)', **local)
        gr.on([stage.input, kind.input, head.input], choose, chosen, [head, *drawn], **quick)
        page.unload(close)
    return page


def _told(outputs: Callable[[str], tuple]) -> Callable:
    """Show errors of an event as a sentence on the page; ``outputs`` makes the outputs of the event from the sentence."""

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except ValueError as error:
                return outputs(_problem(str(error)))
            except Exception:
                traceback.print_exc()
                return outputs(_problem('the page has failed: the terminal of the server shows why'))

        return run

    return decorate


def _heads(model: Model, stage: str, kind: str) -> list[tuple[str, int]]:
    """The heads to choose from in a stage: the average of all, and each one."""
    number = model.stages[int(stage) - 1].get(kind, 0)
    return [('average of all', AVERAGE), *((str(i), i) for i in range(1, number + 1))]


def _problem(text: str) -> str:
    return f'<span class="problem">{escape(text[:1].upper() + text[1:])}.</span>'
