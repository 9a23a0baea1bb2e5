"""What cannot be built, or fails at its first use, is named by its place in the config; later errors stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner

from mmtwins.engine.building import ConfigError, naming_config, naming_first_steps


@MODELS.register_module()
class BuildingPart:
    def __init__(self, size: int, *, kind: str = 'a') -> None:
        if size == 3:
            raise AssertionError
        if size == 4:
            raise ValueError('size=4: give another')
        self.size = size + 1


@MODELS.register_module()
class BuildingWhole(BuildingPart):
    def __init__(self, part: dict, parts: tuple = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = [MODELS.build(one) for one in (part, *parts)]


@MODELS.register_module()
class BuildingOther(BuildingPart):
    pass


def make(**part: object) -> Config:
    content = dict(model=dict(type='BuildingWhole', size=1, part={'type': 'BuildingPart', 'size': 2, **part}))
    return Config(content, filename=__file__)


@pytest.mark.parametrize(
    ('part', 'message'),
    [
        (dict(kinds='b'), r'building\.py: model\.part \(BuildingPart\) has no argument kinds: do you mean kind\?'),
        (dict(zzz=1), r'model\.part \(BuildingPart\) has no argument zzz: it has size, kind'),
        (
            dict(size=3),
            r'model\.part \(BuildingPart\) cannot be built: AssertionError: "raise AssertionError"',
        ),
        (dict(size=4), r'building\.py: model\.part \(BuildingPart\): size=4: give another$'),
        (dict(size='x'), r'model\.part \(BuildingPart\) cannot be built: TypeError: can only concatenate str'),
        (dict(type='BuildingPat'), r"model\.part: 'BuildingPat' is no model of \w+: do you mean BuildingPart\?"),
        (dict(type='Qqq'), r"model\.part: 'Qqq' is no model of \w+: correct the name, or import the module"),
        (dict(type=7), r'model\.part: its type is 7: name a class'),
        (dict(type=None), r'model\.part: it needs a type, but has type, size'),
    ],
)
def test_the_place_is_named(part: dict, message: str) -> None:
    cfg = make()
    cfg.model.part.update(part)
    with pytest.raises(ConfigError, match=message), naming_config(cfg):
        MODELS.build(cfg.model)


def test_a_folder_named_like_a_library_is_not_taken_for_it() -> None:
    space = {'__name__': 'own'}
    exec(compile('def fail(size): raise TypeError("wrong")', '/home/mmtwins/own.py', 'exec'), space)
    MODELS.register_module('BuildingOwn', force=True, module=space['fail'])
    cfg = make(type='BuildingOwn')
    with pytest.raises(ConfigError, match=r'\(fail\) cannot be built: TypeError: wrong'), naming_config(cfg):
        MODELS.build(cfg.model)


def test_arguments_of_bases_and_places_in_lists() -> None:
    cfg = make()
    cfg.model.sizes = 2
    with (
        pytest.raises(ConfigError, match=r'model \(BuildingWhole\) has no argument sizes: do you mean size'),
        naming_config(cfg),
    ):
        MODELS.build(cfg.model)
    cfg = make()
    cfg.model.parts = [dict(type='BuildingPart', size=2), dict(type='BuildingPart')]
    with (
        pytest.raises(ConfigError, match=r"model\.parts\[1\] \(BuildingPart\) lacks 'size': add it"),
        naming_config(cfg),
    ):
        MODELS.build(cfg.model)


def test_a_part_whose_type_was_replaced_has_its_place() -> None:
    cfg = make(kinds='b')
    with pytest.raises(ConfigError, match=r'model\.part \(BuildingOther\) has no argument kinds'), naming_config(cfg):
        MODELS.build({**cfg.model.part, 'type': 'BuildingOther'})


def test_errors_from_elsewhere() -> None:
    message = r'building\.py: what it describes cannot be built.*: AttributeError: .*: correct the config'
    with pytest.raises(ConfigError, match=message), naming_config(make()):
        make().nothing  # noqa: B018
    for kept in (ValueError('a'), FileNotFoundError('a'), ImportError('a')):
        with pytest.raises(type(kept), match=r'^a$'), naming_config(make()):
            raise kept
    with pytest.raises(KeyboardInterrupt), naming_config(make()):
        raise KeyboardInterrupt


class BuildingModel(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> Any:
        return dict(loss=self.weight.sum()) if mode == 'loss' else [self.weight]


class BuildingMetric(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        return {}


class FailingHook(Hook):
    """Fails at the nth call of a stage."""

    def __init__(self, stage: str, number: int, error: Exception) -> None:
        self.left, self.error = number, error
        setattr(self, stage, self._fail)

    def _fail(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error

    def is_last_train_epoch(self, runner: Runner) -> bool:
        return False


def run(folder: Path, stage: str, number: int, error: Exception) -> None:
    data = [dict(inputs=torch.zeros(1)) for _ in range(4)]
    loader = dict(dataset=data, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1, num_workers=0)
    runner = Runner(
        BuildingModel(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[BuildingMetric()],
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None, logger=None),
        experiment_name=f'building-{stage}-{number}-{type(error).__name__}',
        cfg=Config(dict(model=1)),
    )
    runner.register_hook(FailingHook(stage, number, error))
    with naming_first_steps(runner):
        runner.train()


@pytest.mark.parametrize(
    ('message', 'remedy'),
    [
        ('Expected more than 1 value per channel when training, got input size', r'raise train_dataloader\.batch_size'),
        ('CUDA out of memory. Tried to allocate 2.00 GiB', r'lower train_dataloader\.batch_size'),
    ],
)
def test_a_batch_that_does_not_fit_has_a_remedy(message: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf'the first iteration fails.*: {message}.*: .*{remedy}'):
        run(tmp_path, 'before_train_iter', 1, RuntimeError(message))


@pytest.mark.parametrize(
    ('stage', 'number', 'words'),
    [
        ('before_run', 1, 'the first iteration fails'),
        ('before_train_iter', 1, 'the first iteration fails'),
        ('before_train_iter', 2, ''),
        ('before_val_iter', 1, 'the first validation fails'),
        ('before_val_iter', 3, 'the first validation fails'),
        ('before_val_iter', 5, ''),
        ('before_train_epoch', 2, ''),
    ],
)
def test_only_first_steps_are_explained(stage: str, number: int, words: str, tmp_path: Path) -> None:
    if not words:
        with pytest.raises(IndexError, match=r'^no such thing$'):
            run(tmp_path, stage, number, IndexError('no such thing'))
        return
    with pytest.raises(
        ConfigError, match=rf'the config: {words}.*: IndexError: no such thing: correct the config'
    ) as raised:
        run(tmp_path, stage, number, IndexError('no such thing'))
    (path,) = tmp_path.glob('*/traceback.txt')
    assert f'(the whole traceback is in {path})' in str(raised.value)
    assert 'in _fail\n    raise self.error' in path.read_text()


def test_errors_of_workers_are_their_last_line(tmp_path: Path) -> None:
    error = ValueError(
        'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback:\n  x\nValueError: a.png is wrong'
    )
    with pytest.raises(ConfigError, match=r'fails.*: ValueError: ValueError: a\.png is wrong: correct the config'):
        run(tmp_path, 'before_train_iter', 1, error)
