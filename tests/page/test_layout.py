"""The local page: what its functions draw, and the page itself in a headless browser."""

import importlib.util
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmtwins.inference import page as app

pytest.importorskip('mmseg')
pytest.importorskip('mmcv._ext')
cv2 = pytest.importorskip('cv2')

BROWSER, DRIVER = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')


@pytest.fixture(scope='module')
def predictor(segmentor):
    return segmentor


@pytest.fixture(scope='module')
def photo(toy_data, tmp_path_factory) -> Path:
    """96 x 128 pixels, stored lying on its side."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x112] = 6
    path = tmp_path_factory.mktemp('photo') / 'a photo.jpg'
    with Image.open(next((toy_data / 'coco/val2017').iterdir())) as image:
        image.crop((0, 0, 128, 96)).save(path, exif=exif)
    return path


def test_an_upload_is_predicted_on_as_by_infer(predictor, photo):
    (expected,) = predictor([str(photo)])
    np.testing.assert_array_equal(app.predict_file(predictor, str(photo)), expected.overlay())


def test_a_click_draws_the_attention_of_its_point(predictor, photo, monkeypatch):
    seen, draw = [], app.draw_attention
    monkeypatch.setattr(app, 'draw_attention', lambda found, path: seen.append(found) or draw(found, path))
    picture = app.attend_file(predictor, str(photo), [20, 110])
    assert picture.ndim == 3 and picture.dtype == np.uint8 and picture.std() > 10
    (inspection,) = seen
    assert inspection.image.shape == (128, 96, 3)
    assert {found.point for found in inspection.maps} == {(20.5, 110.5)}
    with pytest.raises(ValueError, match='outside'):
        app.attend_file(predictor, str(photo), [110, 20])


def test_uploads_that_are_no_image_or_too_large_or_small_say_so(predictor, tmp_path):
    (tmp_path / 'text.png').write_text('hello')
    cv2.imwrite(str(tmp_path / 'tiny.png'), np.zeros((8, 8, 3), np.uint8))
    huge = tmp_path / 'huge.png'  # many pixels in a few bytes
    cv2.imwrite(str(huge), np.zeros((6000, 6000), np.uint8))
    assert huge.stat().st_size < 1e6
    for name, message in (('text.png', 'no image'), ('tiny.png', 'too small'), ('huge.png', 'too many')):
        with pytest.raises(ValueError, match=message):
            app.predict_file(predictor, str(tmp_path / name))


def test_without_gradio_one_line_says_what_to_install(predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ImportError, match=r"pip install --no-build-isolation '\.\[app\]'"):
        app.build_app(predictor)


# In a browser ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def url(predictor) -> Iterator[str]:
    if importlib.util.find_spec('gradio') is None:
        pytest.skip('needs gradio')
    page = app.build_app(predictor)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    yield app.serve(page, port=port, max_megabytes=0.2, block=False)
    page.close()


@pytest.fixture
def browser(url, tmp_path) -> Iterator[SimpleNamespace]:
    """A headless Chromium on the page: ``driver``, ``find(css)``, and ``wait(function)`` for what it returns."""
    pytest.importorskip('selenium')
    if not BROWSER or not DRIVER:
        pytest.skip('needs chromium and chromedriver')
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
        'disable-component-update', 'disable-sync', f'user-data-dir={tmp_path / "profile"}', 'window-size=1200,1400',
    ):  # fmt: skip
        options.add_argument(f'--{flag}')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def find(selector: str) -> list:
        return driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(function: Callable[[], object]) -> object:
        return WebDriverWait(driver, 60).until(lambda _: function())

    try:
        driver.get(url)
        wait(lambda: find('#image input[type=file]'))
        yield SimpleNamespace(driver=driver, find=find, wait=wait)
    finally:
        driver.quit()


def width_of(browser: SimpleNamespace, selector: str) -> int:
    """Width of the picture that is shown there, in its own pixels; 0 where there is none yet."""
    return max((image.get_property('naturalWidth') for image in browser.find(f'{selector} img')), default=0)


def test_the_page_predicts_on_an_image_and_draws_the_attention_of_a_click(browser, predictor, photo, monkeypatch):
    from selenium.webdriver.common.action_chains import ActionChains

    clicked = []
    attend = app.attend_file
    monkeypatch.setattr(app, 'attend_file', lambda p, path, point: clicked.append(point) or attend(p, path, point))
    browser.find('#image input[type=file]')[0].send_keys(str(photo))
    expected = app.predict_file(predictor, str(photo))
    assert browser.wait(lambda: width_of(browser, '#prediction')) == expected.shape[1]
    assert width_of(browser, '#image') == 96
    assert not width_of(browser, '#attention')
    image = browser.find('#image img')[0]
    ActionChains(browser.driver).move_to_element_with_offset(image, image.size['width'] / 4, 0).click().perform()
    assert browser.wait(lambda: width_of(browser, '#attention')) > 500
    assert len(clicked) == 1
    np.testing.assert_allclose(clicked[0], (72, 64), atol=2)  # pixels of the turned image
    if folder := os.environ.get('SCREENSHOTS'):
        browser.driver.save_screenshot(str(Path(folder) / 'app.png'))
    requests = [json.loads(entry['message'])['message'] for entry in browser.driver.get_log('performance')]
    urls = [r['params']['request']['url'] for r in requests if r['method'] == 'Network.requestWillBeSent']
    assert any(url.startswith('http://127.0.0.1') for url in urls)
    assert not [url for url in urls if not url.startswith(('http://127.0.0.1', 'data:', 'blob:', 'chrome:'))]


def test_the_page_says_why_an_image_gives_nothing(browser, tmp_path, capfd):
    for name, content, message in (
        ('small.png', cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes(), 'too small'),
        ('text.jpg', b'hello', 'no image'),
        ('large.png', np.random.RandomState(0).bytes(300_000), 'size'),
    ):
        (tmp_path / name).write_bytes(content)
        browser.find('#image input[type=file]')[0].send_keys(str(tmp_path / name))
        browser.wait(lambda message=message: message in browser.find('body')[0].text)
        assert not width_of(browser, '#prediction')
        assert tempfile.gettempdir() not in browser.find('body')[0].text
        browser.driver.refresh()
        browser.wait(lambda: browser.find('#image input[type=file]'))
    assert 'Traceback' not in ''.join(capfd.readouterr())


def test_the_page_is_for_this_machine_only(url):
    import gradio

    assert url.startswith('http://127.0.0.1:')
    assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'
    (page,) = (found for found in gradio.Blocks.get_instances() if found.local_url == url)
    assert not page.share and not page.analytics_enabled
    port = int(url.rstrip('/').rpartition(':')[2])
    with socket.socket() as other:  # another address of this machine
        other.settimeout(2)
        assert other.connect_ex(('127.0.0.2', port)) != 0


def test_a_port_in_use_is_named(predictor):
    pytest.importorskip('gradio')
    with socket.socket() as other:
        other.bind(('127.0.0.1', 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f'port {port} cannot be used'):
            app.serve(app.build_app(predictor), port=port, block=False)
