"""``imagenet:NAME``: the authors' ImageNet-1k weights of each published architecture, from which the recipes start."""

import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from .fetching import HASHED_NAME, TIMEOUT, cache_path, fetch, has_sha256, locked

IMAGENET_SCHEME = 'imagenet:'
SHA256 = '[0-9a-f]{64}'
OPENMMLAB = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/twins'
TIMM_RELEASE = 'https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vt3p-weights'


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub, kept in the hub's cache.

    Args:
        repository: OWNER/NAME.
        revision: Commit, 40 digits; None takes the newest.
        sha256: Of the file; None takes the hub's word for it.
        name: Of the file.
    """

    repository: str
    revision: str | None = None
    sha256: str | None = None
    name: str = 'model.safetensors'

    def __str__(self) -> str:
        return f'{self.repository} on the Hugging Face hub'

    def find(self) -> Path | None:
        """The file in the cache, if it is there and intact."""
        path = self._look_up()
        if path is None:
            return None
        sha256 = self.sha256 or path.resolve().name  # the cache names a file by its hash, and links to it
        return path if re.fullmatch(SHA256, sha256) and has_sha256(path, sha256) else None

    def fetch(self) -> Path:
        """Fetch the file into the cache; raises OSError and the errors of huggingface_hub's HTTP library."""
        import safetensors  # noqa: F401  # which reads the file
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

        # One question first: hf_hub_download repeats its own for minutes where there is no network.
        url = hf_hub_url(self.repository, self.name, revision=self.revision)
        stated = get_hf_file_metadata(url, timeout=TIMEOUT).etag
        sha256 = self.sha256 or stated
        if not sha256 or not re.fullmatch(SHA256, sha256):
            raise OSError(f'the hub states {stated} for the file, no SHA-256')
        _remove(self._look_up())  # damaged: find() would have taken it
        path = Path(hf_hub_download(self.repository, self.name, revision=self.revision))
        if not has_sha256(path, sha256):
            _remove(path)
            raise OSError(f'the file does not have the SHA-256 {sha256}')
        return path

    def _look_up(self) -> Path | None:
        try:
            import safetensors  # noqa: F401  # which reads the file
            from huggingface_hub import try_to_load_from_cache
        except ImportError:
            return None
        path = try_to_load_from_cache(self.repository, self.name, revision=self.revision)
        return Path(path) if isinstance(path, str) else None


@dataclass(frozen=True)
class WebFile:
    """A file on a web server, kept in torch's cache; the name ends in the first digits of its SHA-256."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def sha256(self) -> str:
        found = HASHED_NAME.search(self.url)
        assert found
        return found[1]

    def find(self) -> Path | None:
        """The file in the cache, if it is there and intact."""
        path = cache_path(self.url)
        return path if path.is_file() and has_sha256(path, self.sha256) else None

    def fetch(self) -> Path:
        """Fetch the file into the cache; raises OSError, or RuntimeError if the hash is wrong."""
        _remove(cache_path(self.url))  # damaged: find() would have taken it
        return fetch(self.url, self.sha256)


# Where the weights of each architecture lie, in the order in which they are tried. All are the authors' weights: as timm
# hosts them, and as OpenMMLab converted them.
# Of twins_svt_base.in1k and twins_pcpvt_small.in1k on the hub, no commit or SHA-256 was at hand. So timm's release files
# come first there, whose names state the hash, and the hub's newest file, for which the hub states it, comes last.
IMAGENET: dict[str, tuple[HubFile | WebFile, ...]] = {
    'svt-small': (
        HubFile(
            'timm/twins_svt_small.in1k',
            '5edde10cd4eb4cd9426bcb49629b388c57c02c8c',
            '46e4bd7b30ae9ae3f2e9ec4fb669439c5f9676c6bc787687923424d704a06c1a',
        ),
        WebFile(f'{OPENMMLAB}/alt_gvt_small_20220308-7e1c3695.pth'),
    ),
    'svt-base': (
        WebFile(f'{TIMM_RELEASE}/twins_svt_base-c2265010.pth'),
        WebFile(f'{OPENMMLAB}/alt_gvt_base_20220308-1b7eb711.pth'),
        HubFile('timm/twins_svt_base.in1k'),
    ),
    'svt-large': (
        HubFile(
            'timm/twins_svt_large.in1k',
            '9985cdd56ac6164db09e464008c512fb7b75228a',
            '2fbe754f6e595bd07294f381302e0b3f1d449176977e35e4f30200fe4f3bcf97',
        ),
        WebFile(f'{OPENMMLAB}/alt_gvt_large_20220308-fb5936f3.pth'),
    ),
    'pcpvt-small': (
        WebFile(f'{TIMM_RELEASE}/twins_pcpvt_small-e70e7e7a.pth'),
        WebFile(f'{OPENMMLAB}/pcpvt_small_20220308-e638c41c.pth'),
        HubFile('timm/twins_pcpvt_small.in1k'),
    ),
    'pcpvt-base': (
        HubFile(
            'timm/twins_pcpvt_base.in1k',
            'e3b4fd1cb51702e36a58d2ed220f180f9d7c1c91',
            '5722f0d29662fd5ff69a21701caaf5feebd1d657adb62391a75798c43b37760f',
        ),
        WebFile(f'{OPENMMLAB}/pcpvt_base_20220308-0621964c.pth'),
    ),
    'pcpvt-large': (
        HubFile(
            'timm/twins_pcpvt_large.in1k',
            'b0d3cf747f73bb84a8032abbb43cb7b4f53c0a92',
            '423acdd738d41f7ed50bbafbfbf3e50f6ea098b5704bb749a969f1992ddd84c3',
        ),
        WebFile(f'{OPENMMLAB}/pcpvt_large_20220308-37579dc6.pth'),
    ),
}


# What a recipe can do without them.
TRAIN_OTHERWISE = (
    'Name a file of yours with --cfg-options model.backbone.init_cfg.checkpoint=FILE, or save {web} as {path}, or train from '
    'random weights with --from-scratch, which does not reach the published numbers'
)


def fetch_imagenet_weights(name: str, remedy: str = TRAIN_OTHERWISE) -> Path:
    """The ImageNet-1k weights of an architecture, from the cache of this machine or fetched into it.

    The SHA-256 is checked at every call. A file with another one is removed, and the next source is tried. Processes of a
    machine that start together fetch once.

    Args:
        name: Of ``IMAGENET``, such as ``'svt-small'``.
        remedy: What to do if no source has them; ``{web}`` stands for a URL and ``{path}`` for where its file may lie.

    Returns:
        The file, .safetensors or .pth.

    Raises:
        OSError: No source can be reached, or none has the right file; the message says what to do.
        ValueError: There is no such name.
    """
    if name not in IMAGENET:
        raise ValueError(f'{IMAGENET_SCHEME}{name}: there are no such weights; the names are {", ".join(IMAGENET)}')
    sources = IMAGENET[name]
    path = _find(sources)
    if path:
        return path
    with locked(Path(torch.hub.get_dir()) / 'checkpoints' / f'imagenet-{name}'):
        path = _find(sources)  # another process may have fetched it
        if path:
            return path
        failures = []
        for source in sources:
            _log(f'fetching the ImageNet weights of {name} from {source}')
            try:
                return source.fetch()
            except Exception as error:  # the hub's client raises what its HTTP library raises
                failures.append(f'{source} ({_reason(error)})')
                _log(f'not fetched: {failures[-1]}', logging.WARNING)
    web = next(source for source in sources if isinstance(source, WebFile))
    advice = remedy.format(web=web, path=cache_path(web.url))
    raise OSError(f'no source has the right file or can be reached: {", ".join(failures)}. {advice}')


def names_imagenet(init_cfg: object) -> bool:
    """Whether an entry of ``init_cfg`` names weights of ``IMAGENET``."""
    return isinstance(init_cfg, dict) and str(init_cfg.get('checkpoint')).startswith(IMAGENET_SCHEME)


def _find(sources: tuple[HubFile | WebFile, ...]) -> Path | None:
    """The first intact file that is in a cache already."""
    return next((path for source in sources if (path := source.find())), None)


def _remove(path: Path | None) -> None:
    """Remove a file from a cache, and the content that the hub's cache keeps apart; no other target of a link."""
    if path is not None:
        content = path.resolve()
        path.unlink(missing_ok=True)
        if content.parent.name == 'blobs':
            content.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The first line of an error, or what kind it is."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip('.') if lines else type(error).__name__


def _log(message: str, level: int = logging.INFO) -> None:
    """To MMEngine's current log, or to Python's where MMEngine is not in use."""
    if sys.modules.get('mmengine') is None:
        logging.getLogger('mmtwins').log(level, message)
        return
    from mmengine.logging import print_log

    print_log(message, logger='current', level=level)
