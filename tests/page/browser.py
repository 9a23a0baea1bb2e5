"""A headless Chromium that uses the page as a person does."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BROWSER, DRIVER = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
FLAGS = (
    'headless', 'no-sandbox', 'disable-gpu', 'disable-quic', 'no-first-run', 'disable-background-networking',
    'disable-component-update', 'disable-sync', 'window-size=1200,1400', 'use-fake-device-for-media-stream',
    'use-fake-ui-for-media-stream',
)  # fmt: skip
GIVE = """
const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
data.items.add(new File([bytes], 'given.png', { type: 'image/png' }));
const options = { clipboardData: data, dataTransfer: data, bubbles: true, cancelable: true };
const event = arguments[1] === 'paste' ? new ClipboardEvent('paste', options) : new DragEvent('drop', options);
document.body.dispatchEvent(event);
"""
CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((one) => one / 255)
  .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
  .reduce((sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility() && one.innerText.trim()).map((one) => {
  let behind = one, colour = parse(getComputedStyle(behind).backgroundColor);
  while ((colour[3] ?? 1) < 0.5 && behind.parentElement) {
    behind = behind.parentElement;
    colour = parse(getComputedStyle(behind).backgroundColor);
  }
  const [high, low] = [light(parse(getComputedStyle(one).color)), light(colour)].sort((a, b) => b - a);
  return [one.innerText.slice(0, 40), (high + 0.05) / (low + 0.05)];
});
"""
CONTROLS = ('button', 'slider', 'textbox', 'spinbutton', 'combobox', 'radio', 'group', 'radiogroup', 'link', 'checkbox')


class Browser:
    """``driver`` is selenium's; selectors are CSS."""

    def __init__(self, driver, downloads: Path) -> None:
        self.driver, self.downloads = driver, downloads
        self.run = driver.execute_script

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.wait(lambda: self.find('#examples button') and self.run('return !!window.mmtwins'))

    def find(self, selector: str) -> list:
        return self.driver.find_elements('css selector', selector)

    def wait(self, function: Callable[[], object]) -> object:
        """What a function returns, once it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 60, 0.1).until(lambda _: function())

    def text(self, selector: str) -> str:
        return self.find(selector)[0].get_property('innerText').strip()

    def wait_for(self, selector: str, part: str) -> str:
        """The text of an element, once it holds a part."""
        self.wait(lambda: part in self.text(selector))
        return self.text(selector)

    def upload(self, path: Path) -> None:
        self.find('#image input[type=file]')[0].send_keys(str(path))

    def clear(self) -> None:
        self.find('#image [aria-label="Remove Image"]')[0].click()
        self.wait(lambda: self.find('#image input[type=file]') and not self.find('#image .image-frame img'))

    def give(self, png: bytes, how: str) -> None:
        """Paste an image, or drop it beside the frame."""
        self.run(GIVE, base64.b64encode(png).decode(), how)

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def mouse(self, element, x: float = 0, y: float = 0, click: bool = False) -> None:
        """Move the mouse to a place from the centre of an element, in pixels of the screen."""
        from selenium.webdriver.common.action_chains import ActionChains

        moved = ActionChains(self.driver).move_to_element_with_offset(element, x, y)
        (moved.click() if click else moved).perform()

    def slide(self, selector: str, value: float) -> None:
        """Drag the handle of a slider."""
        slider = self.find(f'{selector} input[type=range]')[0]
        low, high = (float(slider.get_attribute(name)) for name in ('min', 'max'))
        width = slider.size['width'] - 16  # the handle stays inside
        place = [(float(one) - low) / (high - low) * width - width / 2 for one in (slider.get_property('value'), value)]
        from selenium.webdriver.common.action_chains import ActionChains

        start = ActionChains(self.driver).move_to_element_with_offset(slider, place[0], 0).click_and_hold()
        start.move_by_offset(place[1] - place[0], 0).release().perform()

    def pixels(self) -> list[tuple[int, int, int, int]]:
        """Colours and opacities that are painted over the image, every 7th pixel."""
        found = self.run(
            'const c = document.querySelector("#prediction .paint");'
            'return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data].filter((_, i) => (i >> 2) % 7 === 0)'
        )
        return list(zip(found[::4], found[1::4], found[2::4], found[3::4]))

    def legend(self) -> list[str]:
        return [one.get_property('innerText').replace('\n', ' ') for one in self.find('#prediction .legend button')]

    def download(self, button: str) -> Path:
        """The file that a button gives."""
        for old in self.downloads.iterdir():
            old.unlink()
        self.wait(lambda: self.find(button)[0].is_enabled())
        self.find(button)[0].click()

        def finished() -> list[Path]:
            return [path for path in self.downloads.iterdir() if path.suffix in ('.png', '.json')]

        (path,) = self.wait(finished)
        return path

    def phone(self, width: int = 390) -> None:
        self.driver.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride', dict(width=width, height=844, deviceScaleFactor=1, mobile=True)
        )

    def dark(self, on: bool) -> None:
        scheme = dict(name='prefers-color-scheme', value='dark' if on else 'light')
        self.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[scheme]))

    def nameless(self) -> list[str]:
        """The roles of controls and images that a screen reader has no name for."""
        nodes = self.driver.execute_cdp_cmd('Accessibility.getFullAXTree', {})['nodes']
        shown = [node for node in nodes if not node.get('ignored')]
        roles = [(node.get('role', {}).get('value'), node.get('name', {}).get('value')) for node in shown]
        assert sum(role in CONTROLS for role, _ in roles) > 10
        return [role for role, name in roles if role in (*CONTROLS, 'image', 'img') and not name]

    def contrast(self, selector: str) -> list[tuple[str, float]]:
        """Texts, and the contrast of each with what is behind it, 1 to 21."""
        return self.run(CONTRAST, selector)

    def requested(self) -> list[str]:
        """The addresses that the browser has asked for."""
        entries = [json.loads(entry['message'])['message'] for entry in self.driver.get_log('performance')]
        return [e['params']['request']['url'] for e in entries if e['method'] == 'Network.requestWillBeSent']


@contextmanager
def start_browser(folder: Path) -> Iterator[Browser]:
    """Start it with a profile in a folder; skips where it is not installed."""
    pytest.importorskip('selenium')
    if not BROWSER or not DRIVER:
        pytest.skip('needs chromium and chromedriver')
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f'user-data-dir={folder / "profile"}'):
        options.add_argument(f'--{flag}')
    options.set_capability('goog:loggingPrefs', {'performance': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    downloads = folder / 'downloads'
    downloads.mkdir()
    driver.execute_cdp_cmd('Browser.setDownloadBehavior', dict(behavior='allow', downloadPath=str(downloads)))
    try:
        yield Browser(driver, downloads)
    finally:
        driver.quit()
