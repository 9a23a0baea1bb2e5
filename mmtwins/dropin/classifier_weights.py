"""Weights of ImageNet classifiers for :class:`mmtwins.dropin.classifier.Twins`: read, adapted to a model, loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..weights.converting import convert
from ..weights.fitting import check_values, check_weights
from ..weights.formats import unwrap
from ..weights.opening import read_file
from ..weights.resizing import resize_in_channels

FIRST_LAYER = 'patch_embeds.0.proj.weight'


def read_classifier(path: str | Path) -> dict[str, Tensor]:
    """Read a file as weights only, see :func:`to_timm`.

    Args:
        path: .safetensors, or what ``torch.save`` wrote.

    Returns:
        The weights.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: A .safetensors file, and safetensors is not installed.
        ValueError: It is no checkpoint of Twins, is damaged, or would run code when loaded.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'checkpoint {path} is no file: give the path of a .pth or .safetensors file')
    checkpoint = read_file(file, 'cpu')
    try:
        return to_timm(checkpoint)
    except ValueError as error:
        raise ValueError(f'checkpoint {path}: {error}') from None


def to_timm(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a classifier by timm's names.

    Args:
        checkpoint: Of any format of :data:`mmtwins.weights.formats.FORMATS`, or what a program saved around it.

    Returns:
        The weights.

    Raises:
        ValueError: It is no checkpoint of Twins.
    """
    return convert(unwrap(checkpoint), 'timm')


def adapt(weights: Mapping[str, Tensor], model: Any, num_classes: int) -> dict[str, Tensor]:
    """Adapt the weights of a classifier to a model with other classes or image channels, as timm does.

    Args:
        weights: By timm's names.
        model: A :class:`mmtwins.dropin.classifier.Twins`. With another number of classes it keeps its own head; with other
            channels, those of the first layer are repeated and scaled.
        num_classes: Classes of the weights.

    Returns:
        The weights.
    """
    adapted = dict(weights)
    if FIRST_LAYER in adapted and adapted[FIRST_LAYER].dim() == 4:
        adapted[FIRST_LAYER] = resize_in_channels(adapted[FIRST_LAYER], model.in_chans)
    if model.num_classes != num_classes:
        own = {name: value for name, value in model.state_dict().items() if name.startswith('head.')}
        adapted = {name: value for name, value in adapted.items() if not name.startswith('head.')} | own
    return adapted


def load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights that must fit exactly.

    Args:
        model: A :class:`mmtwins.dropin.classifier.Twins`.
        weights: By timm's names.

    Raises:
        ValueError: One is missing, surplus, of another shape or not finite; then the model is as before.
    """
    expected = model.state_dict()
    check_weights(weights, expected, 'model')
    check_values(weights, expected)
    model.load_state_dict(weights)
