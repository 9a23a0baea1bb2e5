"""The generated sections of docs/export.md."""

from mmtwins.export.matrix import SIZES
from mmtwins.export.matrix_page import int8_section, matrix_section


def result(format_: str, state: str = 'works', reason: str = '', **more: object) -> dict:
    return dict(arch='svt-s', model='fpn', format=format_, state=state, reason=reason, **more)


def sizes(difference: float) -> list[dict]:
    return [dict(size=size, difference=difference, eager_seconds=2.0, seconds=3.0) for size in SIZES]


def test_a_row_for_each_size_and_a_reason_for_what_is_missing() -> None:
    results = [
        result('onnx', runtime='onnxruntime 1', sizes=sizes(2e-6)),
        result('torchscript', 'differs', 'differs by 5.0e-03', runtime='torch 2', sizes=sizes(5e-3)),
        result('openvino', 'missing', 'openvino was not installed'),
        result('torch-export', 'failed', 'MemoryError: too large'),
    ]
    text = matrix_section(results, 'do it')
    assert text.startswith('```sh\ndo it\n```\n\n1 of 4 files give the results of PyTorch')
    assert (
        'the largest difference is 5.0e-03; 86 of 90 have not been measured yet. Runtimes: onnxruntime 1, torch 2.'
        in text
    )
    assert '### Semantic FPN' in text and '### UPerNet' not in text
    (row,) = (line for line in text.splitlines() if line.startswith('| svt-s | 224 x 448 '))
    assert row == '| svt-s | 224 x 448 | 2.00 | 2e-06, 1.50 | - | missing | failed | 5e-03, 1.50 |'
    assert '- OpenVINO, missing: openvino was not installed.' in text
    assert '- torch.export of svt-s, Semantic FPN, failed: MemoryError: too large.' in text
    assert '- TorchScript of svt-s, Semantic FPN, differs: differs by 5.0e-03.' in text


def test_accuracy_before_and_after() -> None:
    found = dict(
        eager=dict(mIoU=75.91, seconds=0.02, megabytes=0, images=150),
        int8=dict(mIoU=74.0, seconds=0.01, megabytes=2.34, images=150),
    )
    text = int8_section(found, 'do it', 64)
    assert '150 validation images; calibrated with 64 training images.' in text
    assert '| PyTorch | 75.91 | 20.0 | 1.00 | - |' in text
    assert '| ONNX Runtime, int8 | 74.00 | 10.0 | 0.50 | 2.3 |' in text
