"""Put checkpoints into models: by ``init_cfg``, by ``load_state_dict``, and by :func:`load_weights`."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .converting import stage_of
from .fitting import AUXILIARY_HEAD, Fit, check_heads, check_values, fit_backbone, fit_model, has_one_backbone
from .formats import BLOCK, strip_wrappers, unwrap
from .loading import load_safely, naming_checkpoint
from .reporting import log_fit
from .resizing import lacks_subsampling_alone

NOT_NEEDED = (f'{AUXILIARY_HEAD}.', 'num_batches_tracked')  # for predictions; parts of names


class FittedCheckpoint(dict):
    """A checkpoint from a file, already fitted to a model: ``'state_dict'`` has only the weights to load.

    Args:
        checkpoint: As read; what it has beside the weights stays.
        fit: Of :func:`fit_file`.
    """

    def __init__(self, checkpoint: Mapping[str, Any], fit: Fit) -> None:
        super().__init__(checkpoint if 'state_dict' in checkpoint else {}, state_dict=fit.weights)
        self.fit = fit


def fit_file(checkpoint: Mapping[str, Any], expected: Mapping[str, Tensor], prefix: str | None = None) -> Fit:
    """Fit what was read from a file to a model; a :class:`FittedCheckpoint` is not fitted again.

    Args:
        checkpoint: As :func:`mmtwins.weights.loading.load_safely` returns it.
        expected: State dict of the model, with one Twins backbone, or of a backbone.
        prefix: Take only the weights whose names start with it.

    Returns:
        What is loaded, dropped and left fresh.

    Raises:
        ValueError: It does not fit, see :func:`mmtwins.weights.fitting.fit_model`, or a weight is not finite.
    """
    if isinstance(checkpoint, FittedCheckpoint) and checkpoint.fit.suits(expected):
        return checkpoint.fit
    if prefix:
        start = strip_wrappers(prefix.rstrip('.') + '.')
        weights = unwrap(checkpoint)
        checkpoint = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        if not checkpoint:
            raise ValueError(f'no weight has the prefix {prefix}: the first is {next(iter(weights))}')
    fit = fit_model(checkpoint, expected)
    check_values(fit.weights, expected)
    return fit


def load_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], for_predictions: bool = True, prefix: str | None = None
) -> None:
    """Load what was read from a file into a model, and log what was made of it.

    Args:
        model: Whole model or backbone.
        checkpoint: As :func:`mmtwins.weights.loading.load_safely` returns it.
        for_predictions: Whether every weight that predictions need must be in the checkpoint.
        prefix: Take only the weights whose names start with it.

    Raises:
        ValueError: They do not fit, or one is missing; then the model is as before.
    """
    expected = model.state_dict()
    if not has_one_backbone(expected):
        _load_other(model, unwrap(checkpoint))
        return
    fit = fit_file(checkpoint, expected, prefix)
    if for_predictions:
        check_heads(fit)
        if fit.fresh:
            raise ValueError(f'{len(fit.fresh)} weights of the model are not in it, such as {fit.fresh[0]}')
    model.load_state_dict({**expected, **fit.weights})
    log_fit(fit)


def _load_other(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load all weights that predictions need into a model without a Twins backbone; raises as :func:`load_weights`."""
    expected = model.state_dict()
    check_other(weights, expected)
    names = {strip_wrappers(name): name for name in expected}
    model.load_state_dict({own: weights[name] for name, own in names.items() if name in weights}, strict=False)


def check_other(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint holds all weights that predictions of a model without a Twins backbone need.

    Args:
        weights: Read from a file, see :func:`mmtwins.weights.formats.unwrap`.
        expected: State dict of the model.

    Raises:
        ValueError: One is missing or has another shape.
    """
    shapes = {strip_wrappers(name): value.shape for name, value in expected.items()}
    wrong = [name for name in shapes if name in weights and weights[name].shape != shapes[name]]
    if wrong:
        found, wanted = tuple(weights[wrong[0]].shape), tuple(shapes[wrong[0]])
        raise ValueError(f'{wrong[0]} is {found} in the checkpoint, {wanted} in the model')
    missing = [name for name in shapes if name not in weights and not any(part in name for part in NOT_NEEDED)]
    if missing:
        raise ValueError(f'{len(missing)} weights of the model are not in it, such as {missing[0]}')


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedTwins(PretrainedInit):
    """``init_cfg=dict(type='Pretrained', checkpoint=...)``: any public Twins checkpoint, and an error for a misfit.

    MMEngine's own loads what has the same name and shape, and logs the rest. It still serves modules without a Twins
    backbone.
    """

    def __call__(self, module: nn.Module) -> None:
        """Load the checkpoint; raises ValueError if it does not fit, and as :func:`load_safely`."""
        if not has_one_backbone(module.state_dict()):
            super().__call__(module)
            return
        print_log(f'load model from: {self.checkpoint}', logger='current')
        checkpoint = load_safely(self.checkpoint)
        with naming_checkpoint(self.checkpoint):
            load_weights(module, checkpoint, for_predictions=False, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def fit_on_load(backbone: nn.Module) -> None:
    """Let ``load_state_dict`` of a backbone, and of models that contain it, take any public Twins checkpoint.

    Weights in native names, all or a part, are PyTorch's business: it reports or refuses what is missing. Other formats,
    classifiers, whole models and other sub-samplings are fitted first, see :func:`mmtwins.weights.fitting.fit_backbone`.

    Args:
        backbone: Complete, as it was built.
    """
    expected = {name: value.to('meta') for name, value in backbone.state_dict().items()}
    # register_load_state_dict_pre_hook, the public name, is newer than torch 2.1.
    backbone._register_load_state_dict_pre_hook(partial(_fit_before_load, expected), with_module=True)


def _fit_before_load(
    expected: Mapping[str, Tensor], module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Put the weights that fit in the place of what is under a prefix. Looks at names and shapes alone."""
    own = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    # MMEngine's PretrainedInit, named by class, loads here and only logs what does not fit. So all must fit.
    is_initialising = hasattr(module, '_params_init_info')
    is_part = _is_part(own, expected) and not lacks_subsampling_alone(own, expected)
    if is_part and (len(own) == len(expected) or not is_initialising):
        return
    try:
        fit = fit_backbone(own, expected)
    except ValueError:
        if is_initialising or not _is_for_pytorch(own, expected, module):
            raise
        return
    for name in own:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in fit.weights.items()})
    log_fit(fit)


def _is_part(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> bool:
    """Whether everything given is expected, by name and shape."""
    return all(
        name in expected and getattr(value, 'shape', None) == getattr(expected[name], 'shape', None)
        for name, value in given.items()
    )


def _is_for_pytorch(own: Mapping[str, Any], expected: Mapping[str, Tensor], module: nn.Module) -> bool:
    """Whether a state dict that cannot be fitted is no Twins checkpoint, a part of one, or of layers put in later.

    Names that no part of a backbone has may stand beside a part: PyTorch reports them.
    """
    try:
        is_twins = any(map(BLOCK.match, unwrap(own)))
    except ValueError:
        return True
    part = {name: value for name, value in own.items() if stage_of(name) >= 0}
    return not is_twins or (bool(part) and _is_part(part, expected)) or _is_part(own, module.state_dict())
