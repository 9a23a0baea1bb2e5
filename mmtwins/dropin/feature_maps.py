"""The maps of some stages as a list, and their description: timm's ``features_only=True``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


def take_indices(num_stages: int, indices: int | Sequence[int] | None) -> list[int]:
    """The stages that a choice stands for.

    Args:
        num_stages: Stages of the model.
        indices: The last n for a number, all for None; negative ones of a sequence count from the end.

    Returns:
        Stages, counted from 0, in the given order.

    Raises:
        ValueError: There is no such stage, or the sequence is empty.
    """
    if indices is None:
        return list(range(num_stages))
    if isinstance(indices, int):
        if not 0 < indices <= num_stages:
            raise ValueError(f'the last {indices} stages: give a number from 1 to {num_stages}, or a list of stages')
        return list(range(num_stages - indices, num_stages))
    if not indices:
        raise ValueError('there are no stages in an empty list: give at least one')
    wrong = [i for i in indices if not -num_stages <= i < num_stages]
    if wrong:
        raise ValueError(f'stage {wrong[0]} is out of range: the stages are {-num_stages} to {num_stages - 1}')
    return [i % num_stages for i in indices]


class FeatureInfo:
    """What is known of the maps of a model.

    Args:
        info: ``num_chs`` (channels), ``reduction`` (stride in pixels), ``module`` and so on, per stage.
        out_indices: Stages that are returned.

    Source: ``FeatureInfo`` of timm.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info = [dict(entry, index=i) for i, entry in enumerate(info)]
        self.out_indices = tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """A value by its key: of one stage, or a list of several, those that are returned for None."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """All values, or those of some keys, as :meth:`get` chooses the stages."""
        if isinstance(idx, int):
            return {key: self.info[idx][key] for key in keys or self.info[idx]}
        return [self.get_dicts(keys, i) for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of the maps."""
        return self.get('num_chs', idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Strides of the maps, in pixels of the image."""
        return self.get('reduction', idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Names that timm has for the stages."""
        return self.get('module', idx)

    def __getitem__(self, item: int) -> dict[str, Any]:
        return self.info[item]

    def __len__(self) -> int:
        return len(self.info)


class FeatureMaps(nn.Module):
    """A model without classifier, final norm and needless stages that returns maps.

    Args:
        model: A :class:`mmtwins.dropin.classifier.Twins`, which is cut.
        out_indices: Stages to return: the last n for a number, all for None; negative ones count from the end.

    Raises:
        ValueError: There is no such stage.

    Source: ``FeatureGetterNet`` of timm; the names of the weights are its names.
    """

    def __init__(self, model: Any, out_indices: int | Sequence[int] | None = None) -> None:
        super().__init__()
        self.out_indices = model.prune_intermediate_layers(out_indices, prune_norm=True)
        self.feature_info = FeatureInfo(model.feature_info, self.out_indices)
        self.model = model
        self.in_chans = model.in_chans
        self.output_fmt = 'NCHW'
        classifies = ('num_classes', 'classifier', 'global_pool')
        self.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in classifies}
        self.default_cfg = self.pretrained_cfg

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, in_chans, H, W) -> a map (B, C_i, H_i, W_i) per entry of ``out_indices``, in the stages' order."""
        return self.model.forward_intermediates(x, indices=self.out_indices, intermediates_only=True)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.model.set_grad_checkpointing(enable)
