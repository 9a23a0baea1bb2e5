"""Learning rates that fall from the heads to the first layer of a Twins backbone."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..models.backbone import TwinsBackbone
from .fsdp import own_name


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TwinsLayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate of each weight by ``layer_decay``, once for each layer above it.

    The blocks of a backbone are layers 1 to N, counted over all stages. Layer 0 is the first patch embedding. The patch
    embedding of a later stage and every position encoding belong to the first block of their stage, the norm of a stage to
    its last block. Everything else, such as neck and heads, is layer N + 1 and keeps its rate::

        rate = base rate * layer_decay ** (N + 1 - layer)

    It works for every model with a Twins backbone. All other options of ``paramwise_cfg`` still apply::

        optim_wrapper = dict(constructor='TwinsLayerDecayConstructor', paramwise_cfg=dict(layer_decay=0.9))

    Args:
        optim_wrapper_cfg: As for MMEngine's constructor; the optimizer must have ``lr``.
        paramwise_cfg: As for MMEngine's constructor, plus ``layer_decay``, above 0 and at most 1.

    Raises:
        ValueError: ``layer_decay`` or ``lr`` is missing or out of range; or, when called, the model has no Twins backbone.

    Source: The formula is BEiT's (arXiv:2106.08254). The layers of the weights are our choice: we know of no such training
        of Twins.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        decay = self.paramwise_cfg.get('layer_decay')
        if not isinstance(decay, int | float) or not 0 < decay <= 1:
            raise ValueError(f'paramwise_cfg.layer_decay={decay}: give a number above 0 and at most 1, such as 0.9')
        if self.base_lr is None:
            raise ValueError('layer_decay needs optimizer.lr, the rate of the heads')

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Add the weights of a module to the groups; the outermost call, without a prefix, scales their rates."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        decay, rate = self.paramwise_cfg['layer_decay'], float(self.base_lr)
        factors = decay_factors(module, decay)
        for group in params:
            group['lr'] = group.get('lr', rate) * factors[id(group['params'][0])]
        print_log(
            f'layer_decay={decay}: rates fall from {rate:g} in the heads to {rate * min(factors.values()):.3g} in layer 0',
            logger='current',
        )


def decay_factors(model: nn.Module, decay: float) -> dict[int, float]:
    """The factor for the learning rate of each weight.

    Args:
        model: A model that contains Twins backbones, or is one.
        decay: Factor from one layer to the layer below.

    Returns:
        Factors, by the ``id`` of the weight.

    Raises:
        ValueError: The model has no Twins backbone.
    """
    backbones = [module for module in model.modules() if isinstance(module, TwinsBackbone)]
    if not backbones:
        raise ValueError('layer_decay needs a model with a TwinsSVTBackbone or TwinsPCPVTBackbone')
    factors = {id(value): 1.0 for value in model.parameters()}
    for backbone in backbones:
        depths = [len(list(blocks.children())) for blocks in backbone.blocks]
        for name, value in backbone.named_parameters():
            factors[id(value)] = decay ** (sum(depths) + 1 - find_layer(own_name(name), depths))
    return factors


def find_layer(name: str, depths: list[int]) -> int:
    """The layer of a backbone's weight, see :class:`TwinsLayerDecayConstructor`.

    Args:
        name: Name of the weight in the backbone.
        depths: Number of blocks of each stage.

    Returns:
        0 for the first patch embedding, 1 for the first block, and so on.
    """
    part, *place = name.split('.')
    if part not in ('patch_embeds', 'blocks', 'pos_block', 'norm_list'):
        return sum(depths) + 1
    stage = int(place[0])
    if part == 'patch_embeds' and stage == 0:
        return 0
    block = int(place[1]) if part == 'blocks' else depths[stage] - 1 if part == 'norm_list' else 0
    return sum(depths[:stage]) + 1 + block
