"""The page in a headless browser, used as a person uses it. The steps share one browser, which is slow to start."""

import contextlib
import importlib.util
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import Browser, start_browser
from toys import SEGMENTOR

from mmtwins.page import controls
from mmtwins.page.asking import Model, write_files
from mmtwins.page.controls import build_app
from mmtwins.page.serving import private_folder, serve
from mmtwins.page.view import OKABE_ITO, choose_colours

cv2 = pytest.importorskip('cv2')


@pytest.fixture(scope='module')
def served():
    """A function that serves a predictor and gives the address."""
    if importlib.util.find_spec('gradio') is None:
        pytest.skip('needs gradio')
    pages = []

    def start(predictor) -> str:
        pages.append(build_app(predictor))
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        return serve(pages[-1], port=port, max_megabytes=0.2, block=False)

    yield start
    for page in pages:
        page.close()


@pytest.fixture(scope='module')
def browser(tmp_path_factory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp('browser')) as started:
        yield started


@pytest.fixture(scope='module')
def url(served, segmentor) -> str:
    return served(segmentor)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The forward passes: of the model, and of the backbone for attention."""
    made: list[str] = []

    def counted(name: str, function: Callable) -> Callable:
        return lambda *args: made.append(name) or function(*args)

    for name in ('predict', 'inspect'):
        monkeypatch.setattr(Model, name, counted(name, getattr(Model, name)))
    return made


def uploads() -> list[Path]:
    """The files that the page holds of its users."""
    found = [path for path in private_folder().rglob('*') if path.suffix and path.is_file()]
    return [path for path in found if not path.relative_to(private_folder()).parts[0].startswith('examples')]


def holds(content: bytes) -> bool:
    """Whether the page holds an upload of this content. It may delete another one meanwhile."""
    for path in uploads():
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return True
    return False


def test_a_segmentation_from_upload_to_download(browser, url, segmented, photo, tmp_path, calls, capfd):
    browser.open(url)
    browser.driver.get_log('performance')
    assert 'UPerNet with Twins-SVT' in browser.text('#about h1') and 'mIoU 34.6' in browser.text('#about')
    assert not browser.find('#downloads button')[0].is_enabled()

    browser.upload(photo)
    browser.wait_for('#status', 'Predicted in ')
    browser.wait(browser.legend)
    present = np.unique(segmented.labels)
    assert browser.text('#prediction .found') == f'{len(present)} of 9 classes'
    model_colours = {tuple(segmented.info.palette[label]) for label in present}
    painted = {pixel[:3] for pixel in browser.pixels() if pixel[3] == 255} - {(0x20, 0x20, 0x20)}
    assert painted <= model_colours and len(painted) >= len(model_colours) - 2
    first = browser.legend()[0]
    assert first.startswith(f'{np.bincount(segmented.labels.ravel()).argmax() + 1} ') and first.endswith(' %')

    opacity = 'return document.querySelector("#prediction .paint").style.opacity'
    browser.slide('#opacity', 90)
    browser.wait(lambda: 0.8 < float(browser.run(opacity)) <= 1)

    button = browser.find('#prediction .legend button')[0]
    chosen = int(button.get_attribute('data-label'))
    browser.mouse(button)
    browser.wait(lambda: {pixel[3] for pixel in browser.pixels()} == {255, 20})
    lit = {pixel[:3] for pixel in browser.pixels() if pixel[3] == 255} - {(0x20, 0x20, 0x20)}
    assert lit == {tuple(segmented.info.palette[chosen])}
    browser.mouse(browser.find('#about h1')[0])
    browser.wait(lambda: {pixel[3] for pixel in browser.pixels()} == {255})

    browser.find('#palette input')[0].click()
    (option,) = (one for one in browser.find('[role=option]') if 'Okabe' in one.text)
    option.click()
    browser.wait(lambda: {pixel[:3] for pixel in browser.pixels()} <= {*OKABE_ITO, (0x20, 0x20, 0x20)} | lit)
    assert calls == ['predict']

    expected = write_files(segmented, 0.3, choose_colours('okabe-ito', segmented), tmp_path / 'expected')
    for what in ('overlay', 'labels', 'json'):
        path = browser.download(f'#download-{what}')
        assert path.name == Path(expected[what]).name
        assert path.read_bytes() == Path(expected[what]).read_bytes()

    picture = browser.find('#image .image-frame img')[0]
    box = picture.rect
    scale = min(box['width'] / 96, box['height'] / 128)
    browser.mouse(picture, 20 * scale, -30 * scale, click=True)
    browser.wait(lambda: browser.find('#attention img') and browser.find('#point'))
    place = [int(browser.find(f'#{name} input')[0].get_property('value')) for name in 'xy']
    np.testing.assert_allclose(place, (48 + 20, 64 - 30), atol=1)  # of the turned image
    dot = browser.find('#point')[0].rect
    middle = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2
    assert dot['x'] + dot['width'] / 2 == pytest.approx(middle[0] + 20 * scale, abs=3)
    assert dot['y'] + dot['height'] / 2 == pytest.approx(middle[1] - 30 * scale, abs=3)
    assert browser.wait_for('#attention-caption', 'Stage 1, local attention')
    browser.find('#stage input')[2].click()
    browser.wait_for('#attention-caption', 'Stage 3, local attention, average of 4 heads')
    browser.find('#kind input')[1].click()
    browser.wait_for('#attention-caption', 'Stage 3, global attention')
    browser.find('#head input')[0].click()
    browser.wait(lambda: len(browser.find('[role=option]')) == 5)
    browser.find('[role=option]')[3].click()
    browser.wait_for('#attention-caption', 'head 3 of 4')
    browser.wait(lambda: 'head 3 of 4' in (browser.find('#attention img')[0].get_attribute('alt') or ''))
    assert calls == ['predict', 'inspect']

    browser.wait(lambda: {path.name for path in uploads()} >= {'a photo.jpg', 'attention.png'})
    browser.clear()
    browser.wait(lambda: not uploads())
    browser.wait(lambda: not browser.find('#prediction .stage')[0].is_displayed())
    assert not browser.find('#point')

    addresses = browser.requested()
    assert any('/queue/join' in address for address in addresses)
    assert not [one for one in addresses if not one.startswith(('http://127.0.0.1', 'data:', 'blob:', 'chrome:'))]
    assert 'Traceback' not in ''.join(capfd.readouterr())


def test_a_detection_has_a_threshold_that_needs_no_forward_pass(browser, served, detector, detected, photo, calls):
    from selenium.webdriver.common.keys import Keys

    browser.open(served(detector))
    browser.upload(photo)
    browser.wait(browser.legend)
    shown = int((detected.scores >= 0.6).sum())
    assert 0 < shown < len(detected.scores)
    assert browser.text('#prediction .found') == f'{shown} of {len(detected.scores)} instances are shown'
    assert sum(int(entry.rpartition(' ')[2]) for entry in browser.legend()) == shown
    browser.slide('#threshold', 0.05)
    browser.wait_for('#prediction .found', f'{len(detected.scores)} of ')
    slider = browser.find('#threshold input[type=range]')[0]
    slider.send_keys(Keys.END)
    browser.wait_for('#prediction .found', '0 of ')
    assert browser.legend() == []
    assert not any(pixel[3] for pixel in browser.pixels())
    slider.send_keys(*[Keys.ARROW_LEFT] * 30)  # 0.7
    number = int((detected.scores >= 0.7).sum())
    browser.wait_for('#prediction .found', f'{number} of ')
    found = json.loads(browser.download('#download-json').read_text())
    assert len(found) == number and 0 < number < shown and min(one['score'] for one in found) >= 0.7
    assert calls == ['predict']


def test_the_keyboard_is_enough(browser, url, calls):
    from selenium.webdriver.common.keys import Keys

    def go_to(selector: str) -> None:
        for _ in range(60):
            if browser.run('return document.activeElement.matches(arguments[0])', selector):
                return
            browser.keys(Keys.TAB)
        raise AssertionError(f'{selector} cannot be reached with the tabulator')

    browser.open(url)
    go_to('#examples button')
    browser.keys(Keys.ENTER)
    browser.wait(browser.legend)
    go_to('#prediction .legend button')
    browser.wait(lambda: {pixel[3] for pixel in browser.pixels()} == {255, 20})  # the focus highlights
    browser.keys(Keys.ENTER)
    go_to('#opacity input[type=range]')
    assert browser.find('#prediction .legend button')[0].get_attribute('aria-pressed') == 'true'
    assert {pixel[3] for pixel in browser.pixels()} == {255, 20}  # stays, as it is pressed
    browser.keys(Keys.HOME)
    browser.wait(lambda: browser.run('return document.querySelector("#prediction .paint").style.opacity') == '0')
    go_to('#x input')
    browser.keys('30', Keys.TAB, '200', Keys.ENTER)
    browser.wait_for('#attention-caption', 'Point 30 200 is outside the image of 128 x 128 pixels')
    browser.keys(Keys.BACKSPACE, Keys.ENTER)
    browser.wait_for('#attention-caption', 'Stage 1, ')
    assert browser.find('#point')
    go_to('#stage input')
    browser.keys(Keys.ARROW_RIGHT)
    browser.wait_for('#attention-caption', 'Stage 2, ')
    assert calls == ['predict', 'inspect', 'inspect']


def test_paste_drop_and_camera_give_an_image_and_bad_files_a_sentence(browser, url, bad_images, tmp_path, capfd):
    def png(value: int) -> bytes:
        return cv2.imencode('.png', np.full((64, 96, 3), value, np.uint8))[1].tobytes()

    browser.open(url)
    for value, how in ((60, 'paste'), (160, 'drop')):
        browser.give(png(value), how)
        browser.wait(lambda value=value: holds(png(value)))
        browser.wait_for('#status', 'Predicted in ')
    browser.wait(lambda: len(uploads()) == 1)  # the first was deleted
    browser.clear()

    large = tmp_path / 'large.png'
    large.write_bytes(np.random.RandomState(0).bytes(300_000))
    for path, message in (*bad_images.values(), (large, 'exceed the maximum allowed size')):
        browser.upload(path)
        browser.wait_for('body', message)
        assert not browser.find('#prediction .stage')[0].is_displayed()
        # The description of an image that is none would lie behind the label of the frame.
        assert all(
            one.value_of_css_property('color') == 'rgba(0, 0, 0, 0)' for one in browser.find('#image .image-frame img')
        )
        assert 'mmtwins-page' not in browser.text('body') and str(path.parent) not in browser.text('body')
        if path is not large:
            browser.clear()
    browser.wait(lambda: not uploads())
    assert 'Traceback' not in ''.join(capfd.readouterr())

    browser.open(url)
    browser.find('#image [aria-label="Capture from camera"]')[0].click()
    browser.wait(lambda: [one.click() for one in browser.find('#image button') if 'Webcam' in one.text])
    browser.wait(lambda: browser.run('return document.querySelector("#image video")?.readyState >= 2'))
    browser.wait(lambda: browser.find('#image [aria-label="capture photo"]'))[0].click()
    browser.wait_for('#status', 'Predicted in ')
    browser.driver.get('about:blank')
    browser.wait(lambda: not uploads())  # the tab was left


def test_everybody_can_read_it(browser, url, photo):
    texts = 'label, span, p, dt, dd, button, h1, h2, li'
    backgrounds = set()
    for dark in (False, True):
        browser.dark(dark)
        browser.open(url)
        browser.upload(photo)
        browser.wait(browser.legend)
        browser.wait(lambda: browser.find('#look')[0].is_enabled())
        browser.find('#look')[0].click()
        browser.wait_for('#attention-caption', 'X or y is missing')
        backgrounds.add(browser.run('return getComputedStyle(document.body).backgroundColor'))
        contrasts = browser.contrast(texts)
        assert len(contrasts) > 40
        assert not [one for one in contrasts if one[1] < 4.5]
    assert len(backgrounds) == 2
    browser.dark(False)
    for name, place in (('x', '20'), ('y', '20')):
        browser.find(f'#{name} input')[0].send_keys(place)
    browser.find('#look')[0].click()
    browser.wait(lambda: browser.find('#attention img'))
    browser.wait(lambda: not browser.nameless())
    browser.phone()
    browser.wait(lambda: browser.run('return innerWidth') == 390)
    assert browser.run('return document.documentElement.scrollWidth') <= 390
    order = [browser.find(name)[0].rect['y'] for name in ('#image', '#prediction', '#opacity', '#attention')]
    assert order == sorted(order)
    browser.driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})


def test_users_see_their_own_image_alone_and_no_file_of_the_server(browser, url, photo, segmentor):
    browser.open(url)
    browser.upload(photo)
    browser.wait(browser.legend)
    (held,) = (path for path in uploads() if path.name == photo.name)
    first = browser.driver.current_window_handle
    browser.driver.switch_to.new_window('tab')
    browser.open(url)
    assert not browser.legend() and not browser.find('#downloads button')[0].is_enabled()
    browser.find('#examples button')[0].click()
    browser.wait(browser.legend)
    browser.driver.close()
    browser.driver.switch_to.window(first)
    assert browser.download('#download-labels').name == 'a photo_labels.png'

    def status(path: str, data: bytes | None = None) -> int:
        request = urllib.request.Request(url.rstrip('/') + path, data, {'content-type': 'application/json'})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status(f'/gradio_api/file={held}'.replace(' ', '%20')) == 200
    link = held.with_name('link.png')
    link.symlink_to(SEGMENTOR)
    refused = (
        SEGMENTOR,
        segmentor.checkpoint,
        '/etc/passwd',
        f'{held.parent}/../../../etc/passwd',
        link,
        controls.SCRIPT,
    )
    assert [status(f'/gradio_api/file={path}') for path in refused] == [403] * len(refused)
    link.unlink()
    body = {
        'data': [{'path': str(SEGMENTOR), 'meta': {'_type': 'gradio.FileData'}}],
        'fn_index': 0,
        'session_hash': 'x',
    }
    assert status('/gradio_api/queue/join', json.dumps(body).encode()) == 403
    assert status('/gradio_api/run/predict', json.dumps(body).encode()) == 403


def test_the_page_is_for_this_machine_only(url):
    import gradio

    assert url.startswith('http://127.0.0.1:')
    (page,) = (found for found in gradio.Blocks.get_instances() if found.local_url == url)
    assert not page.share and not page.analytics_enabled
    port = int(url.rstrip('/').rpartition(':')[2])
    with socket.socket() as other:  # another address of this machine
        other.settimeout(2)
        assert other.connect_ex(('127.0.0.2', port)) != 0


@pytest.mark.parametrize('stages', [[], [{'GSA': 1}, {'GSA': 2}], [{'LSA': 3, 'GSA': 3}]])
def test_attention_is_offered_as_far_as_the_model_has_it(segmentor, monkeypatch, stages):
    pytest.importorskip('gradio')
    monkeypatch.setattr(
        controls, 'Model', lambda predictor: SimpleNamespace(**{**vars(Model(predictor)), 'stages': stages})
    )
    page = build_app(segmentor)
    shown = {block.elem_id: block for block in page.blocks.values() if getattr(block, 'elem_id', None)}
    assert shown['attending'].visible == bool(stages)
    assert [choice for choice, _ in shown['stage'].choices] == [str(i + 1) for i in range(len(stages))]
    assert [kind for _, kind in shown['kind'].choices] == [
        kind for kind in ('LSA', 'GSA') if stages and kind in stages[0]
    ]
    assert len(shown['head'].choices) == (1 + next(iter(stages[0].values())) if stages else 0)


def test_examples_outlive_the_deletion_of_old_files(segmentor):
    """Gradio deletes what it has cached after an hour, but not these."""
    pytest.importorskip('gradio')
    page = build_app(segmentor)
    (gallery,) = (block for block in page.blocks.values() if getattr(block, 'elem_id', None) == 'examples')
    kept = set().union(*(block.keep_in_cache for block in page.blocks.values()))
    assert {sample[0]['path'] for sample in gallery.samples} <= kept and len(gallery.samples) == 4


def test_what_goes_wrong_is_a_sentence_and_only_faults_have_a_traceback(capfd):
    def fail(error: Exception) -> None:
        raise error

    told = controls._told(lambda text: (None, text))(fail)
    assert told(ValueError('the <image> is small')) == (
        None,
        '<span class="problem">The &lt;image&gt; is small.</span>',
    )
    assert 'Traceback' not in ''.join(capfd.readouterr())
    nothing, text = told(RuntimeError('/secret/path broke'))
    assert nothing is None and 'The page has failed' in text and 'secret' not in text
    assert '/secret/path broke' in capfd.readouterr().err
