"""The ImageNet weights of the recipes: where they lie, and how they come into the cache."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from server import COMMIT, Server

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.weights import fetching, pretrained
from mmtwins.weights.fetching import cache_path
from mmtwins.weights.loading import read_checkpoint
from mmtwins.weights.pretrained import IMAGENET, HubFile, WebFile, fetch_imagenet_weights, names_imagenet

TINY = dict(
    arch=dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
    window_sizes=(7, 7),
    sr_ratios=(2, 1),
    out_indices=(0, 1),
    norm_after_stage=False,
)
REPOSITORY = 'timm/tiny.in1k'
ON_HUB = f'/{REPOSITORY}/resolve/{COMMIT}/model.safetensors'


def tiny_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    return {name: torch.randn_like(value) for name, value in TwinsSVTBackbone(**TINY).state_dict().items()}


def as_pth(weights: dict[str, torch.Tensor]) -> bytes:
    content = io.BytesIO()
    torch.save(weights, content)
    return content.getvalue()


@pytest.fixture
def sources(hub: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[HubFile, WebFile]:
    """``imagenet:tiny`` on the hub and on a web server, the same weights."""
    weights = tiny_weights()
    on_hub = HubFile(REPOSITORY, COMMIT, hub.hub(REPOSITORY, save(weights)))
    content = as_pth(weights)
    sha256 = hub.file('draft', content)
    hub.file(f'tiny_20220308-{sha256[:8]}.pth', content)
    on_web = WebFile(f'{hub.url}/tiny_20220308-{sha256[:8]}.pth')
    monkeypatch.setitem(IMAGENET, 'tiny', (on_hub, on_web))
    return on_hub, on_web


def path_of(web: WebFile) -> str:
    return '/' + web.url.rpartition('/')[2]


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob('*') if path.is_file() and path.suffix != '.lock']


def test_every_architecture_has_its_sources() -> None:
    assert list(IMAGENET) == [f'{family}-{size}' for family in ('svt', 'pcpvt') for size in ('small', 'base', 'large')]
    for name, sources in IMAGENET.items():
        family, size = name.split('-')
        assert len(sources) >= 2
        for i, source in enumerate(sources):
            if isinstance(source, WebFile):
                stem = f'twins_{family}' if 'github.com' in source.url else {'svt': 'alt_gvt'}.get(family, family)
                assert re.fullmatch(rf'https://.*/{stem}_{size}(_20220308)?-[0-9a-f]{{8}}\.pth', source.url)
                assert source.url.endswith(f'-{source.sha256}.pth')
                continue
            assert source.repository == f'timm/twins_{family}_{size}.in1k'
            if source.sha256 is None:  # no hash of our own: only after files with one
                assert (source.revision, i) == (None, len(sources) - 1)
            else:
                assert re.fullmatch('[0-9a-f]{40}', source.revision)
                assert re.fullmatch('[0-9a-f]{64}', source.sha256)
                assert i == 0
    hashes = [source.sha256 for sources in IMAGENET.values() for source in sources if source.sha256]
    assert len(set(hashes)) == len(hashes)


def test_weights_come_from_the_first_source_once(sources: tuple, hub: Server) -> None:
    model = TwinsSVTBackbone(**TINY, init_cfg=dict(type='Pretrained', checkpoint='imagenet:tiny'))
    assert hub.asked == hub.fetched == []  # building fetches nothing
    model.init_weights()
    for name, value in tiny_weights().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert hub.fetched == [ON_HUB]
    hub.folder.rename(hub.folder.with_name('gone'))
    hub.asked.clear()
    assert read_checkpoint('imagenet:tiny').keys() == tiny_weights().keys()
    assert hub.asked == []
    assert hub.fetched == [ON_HUB]


def test_a_wrong_file_is_removed_and_the_second_source_taken(sources: tuple, hub: Server, tmp_path: Path) -> None:
    hub.hub(REPOSITORY, save({'a': torch.ones(1)}))
    path = fetch_imagenet_weights('tiny')
    assert path == cache_path(sources[1].url)
    assert read_checkpoint(str(path)).keys() == tiny_weights().keys()
    kept = [path for pattern in ('blobs/*', 'snapshots/*/*') for path in (tmp_path / 'hub').rglob(pattern)]
    assert kept == []
    assert hub.fetched == [ON_HUB, path_of(sources[1])]
    fetch_imagenet_weights('tiny')  # from the cache, although the first source is tried first
    assert len(hub.fetched) == 2


@pytest.mark.parametrize('status', ['no repository', 'no package'])
def test_the_second_source_stands_in_for_the_first(
    status: str, sources: tuple, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 'no package':
        monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    else:
        (hub.folder / ON_HUB[1:]).unlink()
    assert fetch_imagenet_weights('tiny') == cache_path(sources[1].url)


def test_without_a_source_one_message_says_what_to_do(
    sources: tuple, hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hub.folder / ON_HUB[1:]).unlink()
    hub.file(path_of(sources[1])[1:], b'something else')
    with pytest.raises(OSError, match='no source has the right file') as caught:
        read_checkpoint('imagenet:tiny')
    message = str(caught.value)
    assert message.startswith('checkpoint imagenet:tiny cannot be fetched: ')
    assert re.search(rf'{REPOSITORY} on the Hugging Face hub \(.*404', message)
    assert f'{sources[1].url} (invalid hash value' in message
    assert 'model.backbone.init_cfg.checkpoint=FILE' in message
    assert f'save {sources[1].url} as {cache_path(sources[1].url)}' in message
    assert '--from-scratch' in message
    assert '\n' not in message
    # It does what it says.
    cache_path(sources[1].url).write_bytes(as_pth(tiny_weights()))
    hub.fetched.clear()
    assert read_checkpoint('imagenet:tiny').keys() == tiny_weights().keys()
    assert hub.fetched == []


def test_a_prefilled_cache_needs_no_network_and_no_lock(
    sources: tuple, hub: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / 'mine.pth'
    mine.write_bytes(as_pth(tiny_weights()))
    cache_path(sources[1].url).parent.mkdir(parents=True)
    cache_path(sources[1].url).symlink_to(mine)
    cached = cache_path(sources[1].url)
    with monkeypatch.context() as patch:
        patch.setattr(pretrained, 'locked', None)  # the cache may be read-only
        assert fetch_imagenet_weights('tiny') == cached
    assert hub.asked == hub.fetched == []
    # A wrong file is removed from the cache, but what it links to is not ours.
    mine.write_bytes(b'wrong')
    (hub.folder / ON_HUB[1:]).unlink()
    assert fetch_imagenet_weights('tiny') == cached
    assert cached.read_bytes() == as_pth(tiny_weights())
    assert not cached.is_symlink()
    assert mine.read_bytes() == b'wrong'


def test_damaged_files_in_the_caches_are_fetched_again(sources: tuple, hub: Server) -> None:
    path = fetch_imagenet_weights('tiny')
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1])
    assert fetch_imagenet_weights('tiny') == path
    assert path.read_bytes() == content
    assert hub.fetched == [ON_HUB, ON_HUB]


def test_a_hub_file_without_a_pin_is_checked_against_what_the_hub_states(hub: Server, tmp_path: Path) -> None:
    source = HubFile(REPOSITORY)
    on_hub = f'/{REPOSITORY}/resolve/main/model.safetensors'
    sha256 = hub.hub(REPOSITORY, save(tiny_weights()), 'main')
    assert source.find() is None
    path = source.fetch()
    assert source.find() == path
    assert path.resolve().name == sha256
    path.resolve().write_bytes(b'damaged')
    assert source.find() is None
    hub.stated[on_hub] = 'f' * 64
    with pytest.raises(OSError, match='does not have the SHA-256 ffff'):
        source.fetch()
    assert source.find() is None
    hub.stated[on_hub] = 'W/0123'
    with pytest.raises(OSError, match='no SHA-256'):
        source.fetch()


@pytest.mark.slow
def test_processes_that_start_together_fetch_once(sources: tuple, hub: Server, tmp_path: Path) -> None:
    hub.delay = 0.5
    code = (
        'import sys, torch\n'
        'from mmtwins.weights.pretrained import IMAGENET, HubFile, WebFile, fetch_imagenet_weights\n'
        f'IMAGENET.update(hub=({sources[0]!r},), web=({sources[1]!r},))\n'
        f'torch.hub.set_dir({str(tmp_path / "torch")!r})\n'
        'print("ready", flush=True)\n'
        'sys.stdin.readline()\n'
        'for name in ("hub", "web"):\n'
        '    print("at", fetch_imagenet_weights(name))\n'
    )
    env = {**os.environ, 'HF_ENDPOINT': hub.url, 'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HF_HUB_OFFLINE': '0'}
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [subprocess.Popen([sys.executable, '-c', code], env=env, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == 'ready\n', process.stderr.read()
    for process in processes:
        process.stdin.write('\n')
        process.stdin.flush()
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    found = [re.findall(r'^at (.*)$', out, re.MULTILINE) for out, _ in outputs]
    assert found[0] == found[1]
    for path in found[0]:
        assert read_checkpoint(path).keys() == tiny_weights().keys()
    assert sorted(hub.fetched) == sorted([ON_HUB, path_of(sources[1])])


def test_without_network_the_failure_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sources, which tests cannot reach: see the top of ``tests/conftest.py``."""
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'torch'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    for offline in (True, False):
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
        start = time.monotonic()
        with pytest.raises(OSError, match='no source has the right file or can be reached') as caught:
            fetch_imagenet_weights('svt-base')
        assert time.monotonic() - start < 5
        for source in IMAGENET['svt-base']:
            assert f'{source} (' in str(caught.value)
    assert files_in(tmp_path) == []


def test_a_hub_that_never_answers_is_given_up(sources: tuple, hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, 'TIMEOUT', 0.3)
    hub.delay = 1.5
    start = time.monotonic()
    monkeypatch.setattr(fetching, 'TIMEOUT', 10)
    assert fetch_imagenet_weights('tiny') == cache_path(sources[1].url)
    assert time.monotonic() - start < 5
    assert hub.fetched == [path_of(sources[1])]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match='imagenet:svt-tiny: there are no such weights; the names are svt-small, svt-b'
    ):
        read_checkpoint('imagenet:svt-tiny')


def test_entries_of_init_cfg_that_name_imagenet_weights() -> None:
    assert names_imagenet(dict(type='Pretrained', checkpoint='imagenet:svt-small'))
    for other in (None, [], dict(type='Constant', val=0), dict(type='Pretrained', checkpoint='imagenet.pth')):
        assert not names_imagenet(other)


def test_a_classifier_of_another_architecture_is_refused(sources: tuple) -> None:
    for kind in (TwinsSVTBackbone, TwinsPCPVTBackbone):
        with pytest.raises(
            ValueError, match=r'^checkpoint imagenet:tiny: .*\. These are the weights of tiny: name those'
        ):
            kind(arch='small', init_cfg=dict(type='Pretrained', checkpoint='imagenet:tiny')).init_weights()
