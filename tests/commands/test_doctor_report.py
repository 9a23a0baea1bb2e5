"""What `mmtwins doctor` prints."""

from typing import Any

import pytest

from mmtwins.commands.doctor_report import show
from mmtwins.commands.examination import MODULES, OPTIONAL
from mmtwins.commands.probes import PROBES


def report(**changes: Any) -> dict[str, Any]:
    tried: dict[str, Any] = {name: {'version': f'{number}.0'} for number, name in enumerate(MODULES)}
    tried |= {name: {} for name in PROBES}
    tried |= {'GPU': {'cuda_build': '12.8', 'gpus': [{'name': 'H100', 'memory_gb': 84.9}]}}
    tried |= changes.pop('tried', {})
    caches = {'torch': {'folder': '/c', 'bytes': 96_600_000, 'entries': {f'[f{n}].pth': 1000 for n in range(7)}}}
    commands = {'train': [], 'test': [], 'predict': [], 'app': ['gradio']}
    given = dict(mmtwins='0.1.0', folder='/f', python='3.11', system='Linux', tried=tried, caches=caches)
    return {
        **given,
        'commands': commands,
        'free_bytes': {'/here': 67.7e9, '/cache': 67.7e9, '/other': None},
        'remedies': ['do [this]'],
        'ready': True,
    } | changes


def test_everything_is_said(capsys: pytest.CaptureFixture) -> None:
    show(report())
    text = capsys.readouterr().out
    lines = [' '.join(line.strip('│').split()) for line in text.splitlines()]
    for line in (
        'mmtwins 0.1.0 in /f', 'torch │ 0.0', 'GPU │ H100, 84.9 GB; torch is built for CUDA 12.8', 'backbone │ works',
        'torch │ 96.6 MB │ 1 kB [f0].pth', 'train │ yes', 'app │ no: gradio', 'free disk at /here: 67.7 GB',
        'free disk at /other: not known',
        '- do [this]', 'Training and predictions can run: segmentation and detection.',
    ):  # fmt: skip
        assert line in lines, line
    assert 'and 2 more' in text and 'free disk at /cache' not in text


def test_what_fails_is_said(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmtwins.commands.doctor_report.package_of', lambda name: name)  # whichever stack is there
    failed = {'failure': 'ImportError: [x] no', 'missing': False}
    missing = {'failure': "ModuleNotFoundError: No module named 'y'", 'missing': True}
    tried = {'mmdet': failed, 'mmcv operators': failed, 'GPU': failed, **dict.fromkeys(OPTIONAL, missing)}
    commands = {name: ['mmcv operators'] for name in ('train', 'test', 'predict')}
    show(report(tried=tried, commands=commands, ready=False))
    lines = [' '.join(line.strip('│').split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        'mmdet │ ImportError: [x] no', 'mmcv operators │ ImportError: [x] no', 'GPU │ ImportError: [x] no',
        'train │ no: mmcv operators', 'Training and predictions cannot run, because these do not work: mmcv operators.',
        f'not installed, and needed by some commands only: {", ".join(OPTIONAL)}',
    ):  # fmt: skip
        assert line in lines, line
    show(report(tried={'mmdet': failed}))
    assert 'Training and predictions can run: segmentation.\n' in capsys.readouterr().out
