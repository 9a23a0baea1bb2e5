"""A call that raises, dies or hangs becomes a failure in words; the other calls, and we, go on."""

import os
import signal
import time

import numpy as np
import pytest

from mmtwins.datasets.isolation import map_isolated, run_isolated


def _act(what: object) -> object:
    if what == 'raise':
        raise KeyError('nothing')
    if what == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 'exit':
        os._exit(7)
    if what == 'hang':
        time.sleep(60)
    print('noise of a decoder')
    return what


@pytest.mark.parametrize(
    ('what', 'value', 'failure'),
    [
        ('fine', 'fine', ''),
        (None, None, ''),
        ('raise', None, "KeyError: 'nothing'"),
        ('kill', None, 'ends the process that reads it (SIGKILL)'),
        ('exit', None, 'ends the process that reads it (exit code 7)'),
        ('hang', None, 'takes more than 0.5 s'),
    ],
)
def test_every_end_of_a_call(what: object, value: object, failure: str, capfd: pytest.CaptureFixture) -> None:
    assert run_isolated(_act, what, 0.5) == (value, failure)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('workers', [1, 3])
def test_an_item_costs_no_other_item(workers: int) -> None:
    items = [*range(10), 'kill', *range(10, 20), 'hang', 'raise', 20]
    outcomes = dict(map_isolated(_act, items, workers, 1.0))
    assert sorted(outcomes) == list(range(len(items)))
    assert [outcomes[i].value for i, item in enumerate(items) if isinstance(item, int)] == list(range(21))
    assert {outcomes[items.index(word)].failure.split(' (')[0] for word in ('kill', 'hang', 'raise')} == {
        'ends the process that reads it',
        'takes more than 1 s',
        "KeyError: 'nothing'",
    }


def test_nothing_is_left_behind_when_the_caller_stops() -> None:
    outcomes = map_isolated(lambda _: os.getpid(), range(100), 2, 5.0)
    child = next(outcomes)[1].value
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert list(map_isolated(_act, [], 2, 1.0)) == []


def test_threads_of_opencv_in_the_parent_do_no_harm() -> None:
    cv2 = pytest.importorskip('cv2')
    image = np.zeros((2000, 2000, 3), np.uint8)
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(image, (9, 9), 2)  # starts them
        assert run_isolated(lambda _: cv2.GaussianBlur(image, (9, 9), 2).sum(), None, 20.0) == (0, '')
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


def test_threads_of_torch_in_the_parent_do_no_harm() -> None:
    torch = pytest.importorskip('torch')
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        ones = torch.ones(600, 600)
        expected = float((ones @ ones).sum())
        assert run_isolated(lambda _: float((ones @ ones).sum()), None, 20.0) == (expected, '')
    finally:
        torch.set_num_threads(before)
