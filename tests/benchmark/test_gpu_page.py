"""The page of a GPU report: figures, what failed, and what does not fit."""

from pathlib import Path

from gpu_results import all_kinds

from mmtwins.benchmark.gpu_page import to_markdown, verdict

MACHINE = dict(device='Fake H100', torch='2.13.0')


def test_the_page_has_every_figure() -> None:
    text = to_markdown('make gpu', MACHINE, all_kinds(), [Path('x/gpu_time.png')], 'performance/')
    for part in (
        'make gpu',
        'device Fake H100, torch 2.13.0',
        '**8 parts: 2 failed, 1 did not fit into memory.**',
        '| GPU tests | 40 | 0 | 1 |',
        '| fp16 | AmpOptimWrapper | passed | 200 | 4.000 | 2.000 | 65536 | 1000 |',
        '| svt 250x333 | bf16 | failed | 3.0e-02 of 3e-01 | 6.0e-01 of 3e-01 |',
        '| svt 250x333 | fp32 | does not fit into memory |  |  |',
        '| backbone | mmtwins | mmseg | timm | share |',
        '| fp32 inference 1x512x512 | 10.0 (1.00) | no room | 18.0 (1.80) | 3.',
        '| fp32 inference 1x512x512 | 10 | no room | 18 |',
        '| upernet fp32 inference 1x512x512 | 40.0 (1.00) | 0.25 |',
        '| 1x512x512 | bf16 | inference | LSA 1 | 2.5 |  |  | not available | no room | 1 |',
        'the explicit softmax is faster than the fused attention in 1 of 1 cases',
        '![Median time of the backbone](performance/gpu_time.png)',
    ):
        assert part in text, part


def test_what_failed_and_what_does_not_fit_is_said() -> None:
    lines = to_markdown('make gpu', MACHINE, all_kinds(), [], '').splitlines()
    said = [line for line in lines if line.startswith('- ')]
    assert said == [
        '- gradients of svt at 250 x 333 in bf16 differ by 0.6, more than 0.3',
        '- backbone ... was left out: it does not fit into memory',
        '- amp bf16 ended with RuntimeError: no bf16',
        '- tests were skipped: mmdet is not installed',
        '- backbone fp32 inference 1x512x512: mmpretrain: RuntimeError: broken',
        '- backbone fp32 inference 1x512x512: mmseg does not fit into memory',
    ]


def test_a_report_without_parts_has_a_verdict() -> None:
    assert verdict([]) == '**0 parts: nothing failed.**'
    assert to_markdown('make gpu', MACHINE, [], [], '').endswith('nothing failed.**')
