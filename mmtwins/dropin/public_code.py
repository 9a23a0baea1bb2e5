"""The two models of the public code: the classifier of gvt.py, and the backbone of segmentation/gvt.py and its copies."""

from typing import Any

from torch import Tensor, nn

from ..models.layers import drop_path_rates
from .classifier import Twins
from .tokens import Size


class PublicClassifier(Twins):
    """As gvt.py has it: the features are the mean of the tokens, and ``drop_rate`` is the rate of all other dropout.

    Args:
        drop_rate: Dropout rate after the patch embeddings, of attention outputs and in the MLPs.
        **arguments: Those of :class:`mmtwins.dropin.classifier.Twins`.

    Source: ``gvt.py`` of the public code.
    """

    def __init__(self, *, drop_rate: float = 0.0, **arguments: Any) -> None:
        super().__init__(**{'pos_drop_rate': drop_rate, 'proj_drop_rate': drop_rate, **arguments})

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the mean of the normed tokens of the last stage, (B, C)."""
        return super().forward_features(x).mean(dim=1)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C) -> (B, num_classes), or what goes into the linear layer with ``pre_logits``."""
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def reset_drop_path(self, drop_path_rate: float) -> None:
        """Set stochastic depth, rising linearly from 0 in the first block to this rate in the last."""
        blocks: list[Any] = [module for stage in self.blocks for module in stage.children()]
        for block, rate in zip(blocks, drop_path_rates(drop_path_rate, len(blocks))):
            block.drop_path1.rate = block.drop_path2.rate = rate


class PublicBackbone(PublicClassifier):
    """As segmentation/gvt.py has it: the result is a list of the maps of all stages.

    It keeps the unused final norm and classifier, so that checkpoints load strictly.

    Args:
        extra_norm: LayerNorm at the end of each stage, whose output is returned and goes into the next stage.
        **arguments: Those of :class:`PublicClassifier`. Border windows are padded as in the public code: ``'meituan'``.

    Source: ``segmentation/gvt.py`` of the public code.
    """

    def __init__(self, *, extra_norm: bool = False, **arguments: Any) -> None:
        super().__init__(**{'window_padding': 'meituan', **arguments})
        norms = [nn.LayerNorm(dim, eps=1e-6) for dim in self.embed_dims]
        self.norm_list = nn.ModuleList(norms) if extra_norm else None

    def forward(self, x: Tensor) -> Any:
        """Images (B, in_chans, H, W) -> a map (B, C_i, H_i, W_i) per stage."""
        return self.forward_features(x)

    def forward_features(self, x: Tensor) -> Any:
        """Images (B, in_chans, H, W) -> a map (B, C_i, H_i, W_i) per stage."""
        return self._run_stages(x, range(len(self.blocks)), len(self.blocks))[1]

    def _run_stage(self, i: int, x: Tensor) -> tuple[Tensor, Size]:
        tokens, size = super()._run_stage(i, x)
        return (tokens if self.norm_list is None else self.norm_list[i](tokens)), size
