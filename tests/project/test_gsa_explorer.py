"""The interactive page of the cost, in a browser: its numbers are those of the package, whatever a person sets."""

import math
import random
from pathlib import Path

import pytest
import torch
from page.browser import Browser, start_browser

from mmtwins import TwinsSVTBackbone
from mmtwins.analysis.cost import backbone_macs, best_window, calibrate, gsa_cost, gsa_macs, lsa_cost, lsa_macs
from mmtwins.models.architectures import ARCHITECTURES
from mmtwins.models.layers import map_sizes

PAGE = Path(__file__).parents[2] / 'docs' / 'gsa_explorer' / 'index.html'
SET = """
const set = (id, value) => {
  const one = document.getElementById(id);
  if (one.type === 'checkbox') { if (one.checked !== value) one.click(); return; }
  one.value = value;
  one.dispatchEvent(new Event(one.tagName === 'SELECT' ? 'change' : 'input', { bubbles: true }));
};
const wanted = arguments[0];
set('square', false);
for (const name of ['arch', 'channels', 'height', 'width', 'subsampling', 'padding']) set(name, wanted[name]);
[0, 1, 2, 3].forEach((i) => {
  document.querySelectorAll('#stages button')[i].click();
  set('k', wanted.k[i]);
  set('r', wanted.r[i]);
});
document.querySelectorAll('#stages button')[wanted.stage].click();
document.querySelector(`[name=how][value=${wanted.how}]`).click();
const all = (selector, name) => [...document.querySelectorAll(selector)].map((one) => one.dataset[name]);
return {
  stages: all('#table [data-total]', 'total').map(Number), keys: all('#table [data-keys]', 'keys'),
  total: Number(document.querySelector('#total [data-macs]').dataset.macs),
  shown: document.getElementById('total').innerText, curve: document.getElementById('curve-text').innerText,
  parameters: Number(document.querySelector('#total [data-parameters]').dataset.parameters),
  picture: document.getElementById('picture-text').innerText, hash: location.hash,
};
"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    with start_browser(tmp_path_factory.mktemp('browser')) as started:
        started.driver.get(PAGE.as_uri())
        started.wait(lambda: started.run('return scene.naturalWidth'))
        yield started


def draw_setting(seed: int) -> dict:
    draw = random.Random(seed)
    height, width = draw.randrange(64, 2049, 32), draw.randrange(64, 2049, 32)
    sizes = map_sizes(height, width)
    return dict(
        arch=draw.choice(('small', 'base', 'large')), channels=draw.randrange(32, 193, 16), height=height, width=width,
        subsampling=draw.choice(('conv', 'separable', 'pool')), padding=draw.choice(('masked', 'zero', 'meituan')),
        k=[draw.randint(1, min(64, max(size))) for size in sizes], r=[draw.randint(1, min(16, *size)) for size in sizes],
        stage=draw.randrange(4), how=draw.choice(('paper', 'counted')),
    )  # fmt: skip


def architecture_of(setting: dict) -> dict:
    dims = tuple(setting['channels'] * 2**i for i in range(4))
    return dict(ARCHITECTURES[setting['arch']], embed_dims=dims, num_heads=(1, 1, 1, 1))


def expected_macs(setting: dict) -> list[int]:
    image = (setting['height'], setting['width'])
    options = dict(window_padding=setting['padding'], subsampling=setting['subsampling'])
    stages = backbone_macs(architecture_of(setting), *image, setting['k'], setting['r'], **options)
    return [sum(stage.values()) for stage in stages]


def expected_parameters(setting: dict) -> int:
    """Counted in a model."""
    with torch.device('meta'):
        model = TwinsSVTBackbone(
            arch=architecture_of(setting),
            window_sizes=setting['k'],
            sr_ratios=setting['r'],
            subsampling=setting['subsampling'],
        )
    return sum(parameter.numel() for parameter in model.parameters())


def expected_curve(setting: dict) -> str:
    """What the page says of the minimum and of the chosen k."""
    height, width = map_sizes(setting['height'], setting['width'])[setting['stage']]
    dim, k = setting['channels'] * 2 ** setting['stage'], min(setting['k'][setting['stage']], height, width)
    sides = range(1, min(height, width) + 1)
    if setting['how'] == 'paper':
        best, _ = best_window(height, width)
        least, chosen = (lsa_cost(height, width, dim, s, s) + gsa_cost(height, width, dim, s, s) for s in (best, k))
        return f'k = {best:.2f}, {least / 1e6:.2f} M MACs; at k = {k} (square) {chosen / 1e6:.2f} M'
    costs = {}
    for side in sides:
        gsa = gsa_macs(height, width, dim, side, setting['subsampling'])
        costs[side] = sum(lsa_macs(height, width, dim, side, setting['padding']).values()) + sum(gsa.values())
    best = min(costs, key=costs.__getitem__)
    return f'k = {best}, {costs[best] / 1e6:.2f} M MACs; at k = {k} (square) {costs[k] / 1e6:.2f} M'


@pytest.mark.slow
def test_numbers_are_those_of_the_package(browser: Browser) -> None:
    for seed in range(60):
        setting = draw_setting(seed)
        found = browser.run(SET, setting)
        macs = expected_macs(setting)
        assert found['stages'] == macs and found['total'] == sum(macs), setting
        assert found['shown'].startswith(f'{sum(macs) / 1e9:.2f} GMACs'), setting
        assert found['parameters'] == expected_parameters(setting), setting
        sizes = map_sizes(setting['height'], setting['width'])
        keys = [(rows // r, columns // r) for (rows, columns), r in zip(sizes, setting['r'])]
        assert found['keys'] == [f'{rows},{columns}' for rows, columns in keys], setting
        rows, columns = keys[setting['stage']]
        assert f'{rows} x {columns} = {rows * columns} keys' in found['picture'], setting
        assert expected_curve(setting) in found['curve'], (setting, found['curve'])


@pytest.mark.slow
def test_the_fewest_macs_are_those_of_calibrate(browser: Browser) -> None:
    for seed in range(8):
        setting = draw_setting(seed)
        setting |= {
            name: 64 + (setting[name] - 64) // 64 * 32 for name in ('height', 'width')
        }  # up to 1056: quick in Python
        setting |= dict(k=[1] * 4, r=[1] * 4)
        browser.run(SET, setting)
        browser.find('#calibrate')[0].click()
        expected = calibrate(
            architecture_of(setting),
            setting['height'],
            setting['width'],
            window_padding=setting['padding'],
            subsampling=setting['subsampling'],
        )
        found = browser.run('return [setting.k, setting.r]')
        assert found == [list(expected['window_sizes']), list(expected['sr_ratios'])], setting


@pytest.mark.slow
def test_a_person_drags_clicks_and_shares_a_setting(browser: Browser) -> None:
    browser.driver.get('about:blank')
    browser.driver.get(f'{PAGE.as_uri()}#arch=base&channels=96&height=800&width=1344&stage=2&k=15,11,7,7&r=16,12,7,3')
    assert (
        browser.text('#code') == "TwinsSVTBackbone(arch='base', window_sizes=(15, 11, 7, 7), sr_ratios=(16, 12, 7, 3))"
    )
    macs = backbone_macs('base', 800, 1344, (15, 11, 7, 7), (16, 12, 7, 3))
    assert browser.text('#total').startswith(f'{sum(sum(stage.values()) for stage in macs) / 1e9:.2f} GMACs')
    assert 'k = 11 (square)' in browser.text('#curve-text')
    browser.slide('label:has(#k)', 30)
    k = int(browser.run('return setting.k[1]'))
    assert abs(k - 30) <= 2 and f'k = {k} (square)' in browser.text('#curve-text')
    browser.wait(lambda: f'k=15,{k},7,7' in browser.run('return location.hash'))
    browser.find('#together')[0].click()
    assert browser.run('return setting.k') == [k, k, k, min(k, 42)]
    browser.find('#published')[0].click()
    assert browser.run('return [setting.k, setting.r]') == [[7, 7, 7, 7], [8, 4, 2, 1]]
    canvas = browser.find('#canvas')[0]
    browser.mouse(canvas, -canvas.size['width'] / 2 + 2, -canvas.size['height'] / 2 + 2, click=True)
    assert browser.run('return view.point.every((one) => one < 0.05)')
    browser.driver.get('about:blank')  # what is wrong in an address is left out
    browser.driver.get(f'{PAGE.as_uri()}#arch=no&height=x&k=1,2&r=0,0,0,0&width=99999&stage=9')
    assert browser.run('return [setting.arch, setting.height, setting.width, setting.k, setting.r]') == [
        'small', 512, 2048, [7, 7, 7, 7], [8, 4, 2, 1],
    ]  # fmt: skip
    names = [entry['message'] for entry in browser.driver.get_log('browser')]
    assert not names and not browser.nameless()
    assert not [url for url in browser.requested() if not url.startswith(('file:', 'data:', 'chrome'))]


@pytest.mark.slow
@pytest.mark.parametrize('dark', [False, True])
def test_a_phone_can_read_it_at_night(browser: Browser, dark: bool) -> None:
    browser.dark(dark)
    browser.phone()
    browser.driver.get(PAGE.as_uri())
    browser.driver.refresh()
    assert browser.run('return document.documentElement.scrollWidth') <= 390
    texts = browser.contrast('p, h1, h2, label, output, td, th, legend, button, select, a, pre')
    assert len(texts) > 60 and min(contrast for _, contrast in texts) > 4.4, min(texts, key=lambda one: one[1])
    canvas, chart = browser.find('#canvas')[0], browser.find('#chart')[0]
    assert canvas.size['width'] > 300 and chart.size['width'] > 300
    assert math.isclose(canvas.size['width'], canvas.size['height'], abs_tol=1)
