"""Run mutated data through the check, and what it passes through a training and an evaluation, in forked children."""

import copy
import gc
import importlib
import io
import json
import os
import random
import runpy
import shutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from coco_mutations import BYTE_MUTATIONS, JSON_MUTATIONS, encode
from config_mutations import TEXTS, write_text_mutation, write_value_mutation
from file_mutations import FILE_MUTATIONS, IMAGE_MUTATIONS, LABEL_MUTATIONS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, METRICS, DefaultScope
from mmengine.runner import runner
from PIL import Image

from mmtwins.datasets import passes, trial
from mmtwins.datasets.checking import check_datasets, report_on
from mmtwins.datasets.isolation import Outcome, map_isolated
from mmtwins.datasets.passes import Pass
from mmtwins.engine.class_order import match_by_name
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model

SECONDS = 120.0
TRAIN = Path(__file__).parents[2] / 'tools' / 'train.py'


@dataclass(frozen=True)
class Case:
    """One mutation.

    Attributes:
        seed: What it draws with.
        library: ``'coco'``, ``'boxes'`` (a detector without masks) or ``'ade'``.
        kind: ``'json'``, ``'bytes'``, ``'image'``, ``'label'``, ``'text'`` (of a config) or ``'value'`` (in a config).
        name: Of the mutation.
        split: Whose file is changed.
    """

    seed: int
    library: str
    kind: str
    name: str
    split: str

    @property
    def folder(self) -> str:
        """Of its data."""
        return 'ade' if self.library == 'ade' else 'coco'

    def __str__(self) -> str:
        return f'{self.seed}-{self.library}-{self.kind}-{self.name}-{self.split}'


POOLS = (
    ('coco', 'json', JSON_MUTATIONS),
    ('boxes', 'json', JSON_MUTATIONS),
    ('coco', 'bytes', BYTE_MUTATIONS),
    ('coco', 'image', {**FILE_MUTATIONS, **IMAGE_MUTATIONS}),
    ('ade', 'image', {**FILE_MUTATIONS, **IMAGE_MUTATIONS}),
    ('ade', 'label', {**FILE_MUTATIONS, **LABEL_MUTATIONS}),
    ('ade', 'text', TEXTS),
    ('', 'value', ['one']),
)


def draw_cases(first: int, number: int) -> Iterator[Case]:
    """Cases with the seeds ``first`` to ``first + number - 1``: every mutation in turn, of each pool in turn."""
    for seed in range(first, first + number):
        library, kind, table = POOLS[seed % len(POOLS)]
        names = sorted(table)
        name = names[(seed // len(POOLS)) % len(names)]
        rng = random.Random(seed)
        split = rng.choice(['train', 'train', 'val'])
        yield Case(seed, library or rng.choice(['coco', 'ade']), kind, name, split)


def mutate(case: Case, root: Path) -> str:
    """Change the data below ``root``; returns what a person would call them."""
    rng = random.Random(case.seed)
    long_name = {'train': 'training', 'val': 'validation'}[case.split]
    if case.kind in ('json', 'bytes'):
        path = root / f'coco/annotations/instances_{case.split}2017.json'
        if case.kind == 'json':
            content = json.loads(path.read_text())
            verdict = JSON_MUTATIONS[case.name](content, rng)
            path.write_bytes(encode(content))
            is_unread = case.library == 'boxes' and case.name.startswith(('polygon', 'run_lengths'))
            return 'noted' if is_unread and verdict == 'wrong' else verdict
        path.write_bytes(BYTE_MUTATIONS[case.name](path.read_bytes(), rng))
        return 'any' if case.name.startswith('byte') else 'wrong'
    folder = {
        ('coco', 'image'): root / f'coco/{case.split}2017',
        ('ade', 'image'): root / f'ade/images/{long_name}',
        ('ade', 'label'): root / f'ade/annotations/{long_name}',
    }[case.library, case.kind]
    table = {**FILE_MUTATIONS, **(LABEL_MUTATIONS if case.kind == 'label' else IMAGE_MUTATIONS)}
    verdict = table[case.name](rng.choice(sorted(folder.iterdir())), rng)
    if case.name == 'cut_off':
        return 'noted' if case.library != 'ade' or case.kind == 'image' else verdict
    is_unlisted = case.name in ('gone', 'folder', 'link', 'pipe') and (case.library, case.kind) == ('ade', 'image')
    return 'noted' if is_unlisted else verdict  # a data set is what its folder of images lists


class Fuzzer:
    """Models built once, so that a case costs a fork, a copy of the data and what it tests.

    Args:
        data: Of :func:`small_data.write_small_data`.
        scratch: Folder for the mutated copies.
    """

    def __init__(self, data: Path, scratch: Path) -> None:
        self.data, self.scratch = data, scratch
        torch.manual_seed(0)
        self.configs, self.models = {}, {}
        for library in ('coco', 'boxes', 'ade'):
            root = 'ade' if library == 'ade' else 'coco'  # relative: a child works in the folder of its case
            self.configs[library] = load_config(str(data / f'{library}.py'), dict(data_root=root))
            check_datasets(load_config(str(data / f'{library}.py')))  # imports everything
            self.models[library] = build_model(self.configs[library])
        Image.preinit()
        torch.optim.AdamW([torch.zeros(1)])  # imports PyTorch's compiler
        importlib.import_module('torch.onnx')  # as Mask R-CNN does
        gc.collect()
        gc.freeze()

    def run(self, cases: Iterable[Case]) -> Iterator[tuple[Case, str, str, str]]:
        """Run cases; those that train with ``tools/train.py`` in a child each, all others in one as long as it lives.

        Yields:
            The case, what a person would call the data, what became of them, and in which words. The third is ``'error'``
            (refused, in sentences), ``'passed'`` (trained and evaluated) or ``'fault'`` (refused without a sentence, or
            passed and failed later).
        """
        groups: dict[int, list[Case]] = {}
        for case in cases:
            groups.setdefault(case.seed if case.kind == 'value' else -1, []).append(case)
        for group in groups.values():
            for index, outcome in map_isolated(self._run, group, workers=1, seconds=SECONDS):
                shutil.rmtree(self.scratch / str(group[index].seed), ignore_errors=True)
                yield group[index], *(outcome.value or ('any', 'fault', outcome.failure))

    def _run(self, case: Case) -> tuple[str, str, str]:
        os.chdir(self.scratch)  # the folder of the last case is being removed
        folder = self.scratch / str(case.seed)
        if case.kind in ('text', 'value'):
            return self._run_config(case, folder)
        passes.map_isolated = _map_here  # one process is enough to be safe in
        trial.run_isolated = lambda function, argument, seconds: next(_map_here(function, [argument]))[1]
        name = case.folder
        shutil.copytree(self.data / name, folder / name)
        expected = mutate(case, folder)
        os.chdir(folder)
        try:
            cfg = self.configs[case.library]
            report = report_on(check_datasets(cfg, options=Pass()))
        except (ValueError, OSError, ImportError) as error:
            return expected, 'error', f'error: {error}'
        except BaseException:
            return expected, 'fault', traceback.format_exc()
        words = '\n'.join(one.sentence for one in report.errors + report.warnings)
        if report.errors:
            return expected, 'error', words
        try:
            self._use(cfg, case.library)
        except BaseException:
            return expected, 'fault', f'{words}\n{traceback.format_exc()}'
        return expected, 'passed', words

    def _run_config(self, case: Case, folder: Path) -> tuple[str, str, str]:
        """Check the data of a mutated config, then train for an iteration and validate with ``tools/train.py``."""
        folder.mkdir(parents=True)
        if case.kind == 'text':
            path, what = write_text_mutation(case.name, folder), case.name
        else:
            cfg = load_config(str(self.data / f'{case.library}.py'))
            cfg.train_cfg.update(max_iters=1, val_interval=1)
            path, what = write_value_mutation(cfg, random.Random(case.seed), folder)
        os.chdir(folder)
        os.environ['XDG_CACHE_HOME'] = str(folder)
        runner.collect_env = dict  # compilers and the like, for the log
        sys.argv = ['train.py', str(path), '--work-dir', str(folder / 'work')]
        expected = 'wrong' if case.kind == 'text' else 'any'
        try:
            report = report_on(check_datasets(load_config(str(path)), ('train', 'val'), Pass(fast=True)))
        except (ValueError, OSError, ImportError) as error:
            return expected, 'error', f'error: {error}'
        except BaseException:
            return expected, 'fault', f'{what}\n{traceback.format_exc()}'
        if report.errors:
            return expected, 'error', '\n'.join(one.sentence for one in report.errors)
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                runpy.run_path(str(TRAIN), run_name='__main__')
        except SystemExit as error:
            return expected, 'error' if isinstance(error.code, str) else 'fault', f'{error.code}'
        except BaseException:
            return expected, 'fault', f'{what}\n{traceback.format_exc()}'
        return expected, 'passed', what

    def _use(self, cfg: Config, library: str) -> None:
        """A loss of all data that a training gets, and an evaluation of all data."""
        model = self.models[library]
        match_by_name()  # as a hook of each training does
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            for split in ('train', 'val'):
                torch.manual_seed(0)
                dataset = DATASETS.build(copy.deepcopy(cfg[f'{split}_dataloader'].dataset))
                samples = [dataset[index] for index in range(len(dataset))]
                assert samples
                if split == 'train':
                    model.train()
                    batch = model.data_preprocessor(pseudo_collate(samples), True)
                    losses, _ = model.parse_losses(model(**batch, mode='loss'))
                    assert torch.isfinite(losses), 'the loss is not finite'
                    continue
                model.eval()
                metric = METRICS.build(copy.deepcopy(cfg.val_evaluator))
                metric.dataset_meta = dataset.metainfo
                for batch in [[one] for one in samples] if library == 'ade' else [samples]:  # mmseg pads none in tests
                    with torch.no_grad():
                        outputs = model.val_step(pseudo_collate(batch))
                    metric.process(batch, [one.to_dict() for one in outputs])
                metric.evaluate(len(samples))


def _map_here(function, items, workers: int = 1, seconds: float = 0.0) -> Iterator[tuple[int, Outcome]]:
    for index, item in enumerate(items):
        try:
            yield index, Outcome(function(item))
        except Exception as error:
            yield index, Outcome(failure=f'{type(error).__name__}: {error}')
