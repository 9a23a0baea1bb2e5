"""Seeded mutations of data and configs: each ends in a sentence that names file and remedy, or is harmless.

20 cases by default; ``FUZZ_CASES=1000`` runs more. A case is its seed: ``FUZZ_FIRST=123 FUZZ_CASES=1`` runs one again.
"""

import os
from pathlib import Path

import pytest

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
FIRST, NUMBER = int(os.environ.get('FUZZ_FIRST', '0')), int(os.environ.get('FUZZ_CASES', '20'))
BLOCK = 20  # cases of one test: a block is what processes of pytest-xdist share


@pytest.fixture(scope='module')
def fuzzer(small_data: Path, tmp_path_factory: pytest.TempPathFactory):
    from fuzzing import Fuzzer

    return Fuzzer(small_data, tmp_path_factory.mktemp('fuzz'))


@pytest.mark.parametrize('first', range(FIRST, FIRST + NUMBER, BLOCK))
def test_mutations_end_in_a_sentence_or_are_harmless(first: int, fuzzer) -> None:
    from fuzzing import draw_cases

    faults = []
    for case, expected, outcome, words in fuzzer.run(draw_cases(first, min(BLOCK, FIRST + NUMBER - first))):
        is_right = {
            'wrong': outcome == 'error',
            'fine': outcome == 'passed',
            'noted': outcome == 'error' or (outcome == 'passed' and words),
            'any': outcome in ('error', 'passed'),
        }[expected]
        if outcome == 'error' and not _names_file_and_remedy(words):
            is_right = False
        if not is_right:
            faults.append(f'{case}: a person calls it {expected}, it ended as {outcome}: {words[-1500:]}')
    assert not faults, '\n\n'.join(faults)


def _names_file_and_remedy(words: str) -> bool:
    """Whether a refusal says where, and more than what is wrong."""
    names_place = '/' in words or '_dataloader' in words
    return names_place and (words.count('. ') > 0 or words.count(': ') > 0) and 'Traceback' not in words


def test_every_mutation_is_drawn() -> None:
    from coco_mutations import BYTE_MUTATIONS, JSON_MUTATIONS
    from config_mutations import TEXTS
    from file_mutations import FILE_MUTATIONS, IMAGE_MUTATIONS, LABEL_MUTATIONS
    from fuzzing import draw_cases

    tables = (BYTE_MUTATIONS, JSON_MUTATIONS, TEXTS, FILE_MUTATIONS, IMAGE_MUTATIONS, LABEL_MUTATIONS)
    assert {case.name for case in draw_cases(0, 1000)} == {name for table in tables for name in table} | {'one'}
