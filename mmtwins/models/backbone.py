"""Twins-SVT and Twins-PCPVT as backbones for dense prediction. Tokens stay contiguous (B, H, W, C) from end to end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..weights.applying import fit_on_load
from . import fast_path
from .attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from .block import TwinsBlock
from .compiling import is_compiling
from .layers import MIN_INPUT_SIDE, PATCH_PADDINGS, PatchEmbed, PositionEncodingGenerator, patch_size, stage_stride
from .windows import WINDOW_PADDINGS

ARCHITECTURES = {
    'small': dict(
        embed_dims=(64, 128, 256, 512), depths=(2, 2, 10, 4), num_heads=(2, 4, 8, 16), mlp_ratios=(4, 4, 4, 4)
    ),
    'base': dict(
        embed_dims=(96, 192, 384, 768), depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24), mlp_ratios=(4, 4, 4, 4)
    ),
    'large': dict(
        embed_dims=(128, 256, 512, 1024), depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), mlp_ratios=(4, 4, 4, 4)
    ),
}
PCPVT_ARCHITECTURES = {
    name: dict(embed_dims=(64, 128, 320, 512), depths=depths, num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4))
    for name, depths in dict(small=(3, 4, 6, 3), base=(3, 4, 18, 3), large=(3, 8, 27, 3)).items()
}


class TwinsBackbone(BaseModule):
    """What both families share: four stages of patch embedding, blocks with a PEG after the first, and a norm.

    Args:
        architecture: ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratios``, one value per stage each.
        make_attention: Attention on (B, H, W, C) for (stage, block), both counted from 0.
        sr_ratios: Side of the sub-window that one GSA key and value summarises per stage, in tokens.

    The other arguments, what is raised and the source: see :class:`TwinsSVTBackbone`.
    """

    def __init__(
        self,
        *,
        architecture: Mapping[str, Sequence],
        make_attention: Callable[[int, int], nn.Module],
        sr_ratios: Sequence[int],
        in_channels: int,
        patch_padding: str,
        drop_rate: float,
        drop_path_rate: float,
        out_indices: Sequence[int],
        norm_after_stage: bool | Sequence[bool],
        with_cp: bool,
        frozen_stages: int,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        dims, depths = architecture['embed_dims'], architecture['depths']
        num_stages = len(dims)
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(f'in_channels={in_channels!r}: give the number of channels of an image, such as 3')
        _check_choice('patch_padding', patch_padding, PATCH_PADDINGS)
        _check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        _check_out_indices(out_indices, num_stages)
        if isinstance(norm_after_stage, bool):
            norm_after_stage = (norm_after_stage,) * num_stages
        elif not _is_sequence(norm_after_stage) or len(norm_after_stage) != num_stages:
            raise ValueError(
                f'norm_after_stage={norm_after_stage!r}: give one bool, or one for each of {num_stages} stages'
            )
        if frozen_stages not in range(-1, num_stages):
            raise ValueError(
                f'frozen_stages={frozen_stages} is out of range: the stages are 0 to {num_stages - 1}; -1 freezes none'
            )
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        num_blocks = sum(depths)
        drop_paths = iter([drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)])

        self.patch_embeds = nn.ModuleList()
        self.pos_drops = nn.ModuleList()
        self.pos_block = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.norm_list = nn.ModuleList()
        self.min_input_side = MIN_INPUT_SIDE
        for i in range(max(out_indices) + 1):
            dim, mlp_ratio = dims[i], architecture['mlp_ratios'][i]
            self.patch_embeds.append(PatchEmbed(in_channels, dim, patch_size(i), patch_padding))
            self.pos_drops.append(nn.Dropout(drop_rate))
            self.blocks.append(
                nn.ModuleList(
                    TwinsBlock(make_attention(i, j), dim, mlp_ratio, drop_rate, next(drop_paths))
                    for j in range(depths[i])
                )
            )
            self.pos_block.append(PositionEncodingGenerator(dim))
            self.norm_list.append(nn.LayerNorm(dim, eps=1e-6) if norm_after_stage[i] else nn.Identity())
            self.min_input_side = max(self.min_input_side, stage_stride(i) * sr_ratios[i])
            in_channels = dim

        self.apply(_init_weights)
        self._freeze_stages()
        fit_on_load(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute multi-scale features.

        Args:
            x: Images, (B, in_channels, H, W), at least 32 x 32 pixels.

        Returns:
            One contiguous (B, C_i, H_i, W_i) map per entry of ``out_indices``; stage i has stride 4 * 2^i pixels.

        Raises:
            ValueError: The image is too small or has another number of channels.
        """
        self._check_input(x)
        features = {}
        x = x.permute(0, 2, 3, 1).contiguous()
        stages: Iterator[Any]  # nn.ModuleList does not say what it holds
        stages = zip(self.patch_embeds, self.pos_drops, self.blocks, self.pos_block, self.norm_list, strict=True)
        for i, (patch_embed, pos_drop, blocks, pos_block, norm) in enumerate(stages):
            x = pos_drop(patch_embed(x))  # (B, H_i, W_i, C_i)
            for j, block in enumerate(blocks):
                x = self._checkpoint(block, x) if self.with_cp and x.requires_grad else block(x)
                if j == 0:
                    x = pos_block(x)
            x = norm(x)
            if i in self.out_indices:
                # mmcv's RoIAlign takes any memory for contiguous: channels-last maps would give wrong features.
                features[i] = x.permute(0, 3, 1, 2).contiguous()
        return tuple(features[i] for i in self.out_indices)

    @staticmethod
    def _checkpoint(block: nn.Module, x: Tensor) -> Tensor:
        if is_compiling():
            return checkpoint(block, x, use_reentrant=False)
        return checkpoint(block, x, use_reentrant=False, context_fn=fast_path.checkpoint_contexts)

    def train(self, mode: bool = True) -> 'TwinsBackbone':
        """Set training mode; frozen stages stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        for parts in (self.patch_embeds, self.pos_drops, self.blocks, self.pos_block, self.norm_list):
            for part in parts[: self.frozen_stages + 1]:
                part.eval()
                part.requires_grad_(False)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'expected images of shape (B, {self.in_channels}, H, W), got {tuple(x.shape)}: set in_channels, or '
                "load grey images with color_type='color'"
            )
        if min(x.shape[2:]) < self.min_input_side:
            raise ValueError(
                f'an image of {x.shape[2]} x {x.shape[3]} pixels is too small: the smallest input is '
                f'{self.min_input_side} x {self.min_input_side} pixels; resize or pad it'
            )


@MODELS.register_module()
class TwinsSVTBackbone(TwinsBackbone):
    """Twins-SVT: local (LSA) and global sub-sampled attention (GSA) in turn, four scales of features.

    Weights are initialised on construction: linear layers from a truncated normal of std 0.02, convolutions from
    a normal of std sqrt(2 / fan_out), biases 0, norms 1 and 0. Stages after the last one in ``out_indices`` do not
    exist, so every parameter gets a gradient.

    Args:
        arch: ``'small'``, ``'base'``, ``'large'``, or a dict of ``embed_dims``, ``depths``, ``num_heads`` and
            ``mlp_ratios`` with one value per stage.
        in_channels: Channels of the image.
        window_sizes: Side of an LSA window per stage, in tokens.
        sr_ratios: Side of the sub-window that one GSA key and value summarises per stage, in tokens.
        window_padding: What LSA does where a window side does not divide the feature map: ``'masked'``, ``'zero'``
            or ``'meituan'``, see :class:`LocallyGroupedSelfAttention`.
        patch_padding: What happens to rows and columns that do not fill a patch: ``'none'`` or ``'corner'``, see
            :class:`PatchEmbed`.
        qkv_bias: Whether the q, k and v projections have a bias.
        drop_rate: Dropout rate after the patch embeddings, the attention outputs and in the MLPs.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth, rising linearly from 0 in the first block to this rate in the last.
        out_indices: Stages to return, in this order.
        norm_after_stage: LayerNorm at the end of each stage, whose output is returned and goes into the next stage;
            True, False or one bool per stage.
        with_cp: Recompute each block in the backward pass instead of keeping its activations.
        frozen_stages: Stages 0 to ``frozen_stages`` get no gradient and stay in eval mode; -1 freezes none.
        init_cfg: Initialisation as in MMEngine. ``Pretrained`` takes any public Twins checkpoint, and ``imagenet:svt-small``
            and so on for the authors' ImageNet weights.

    Raises:
        ValueError: An argument is out of its range, or lengths do not match the number of stages.

    Source: Twins (arXiv:2104.13840), section 3.2 and table 1; ``segmentation/gvt.py`` of the public code.
    """

    def __init__(
        self,
        *,
        arch: str | Mapping[str, Sequence] = 'small',
        in_channels: int = 3,
        window_sizes: Sequence[int] = (7, 7, 7, 7),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        window_padding: str = 'masked',
        patch_padding: str = 'none',
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_after_stage: bool | Sequence[bool] = True,
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        architecture = resolve_architecture(arch, ARCHITECTURES)
        dims, num_heads = architecture['embed_dims'], architecture['num_heads']
        _check_per_stage('window_sizes', window_sizes, len(dims))
        _check_per_stage('sr_ratios', sr_ratios, len(dims))
        _check_choice('window_padding', window_padding, tuple(WINDOW_PADDINGS))
        _check_rates(attn_drop_rate=attn_drop_rate)

        def make_attention(i: int, j: int) -> nn.Module:
            rates = dict(attn_drop=attn_drop_rate, proj_drop=drop_rate)
            if j % 2 == 0:
                return LocallyGroupedSelfAttention(
                    dims[i], num_heads[i], window_sizes[i], window_padding, qkv_bias, **rates
                )
            return GlobalSubsampledAttention(dims[i], num_heads[i], sr_ratios[i], qkv_bias, **rates)

        super().__init__(
            architecture=architecture,
            make_attention=make_attention,
            sr_ratios=sr_ratios,
            in_channels=in_channels,
            patch_padding=patch_padding,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            norm_after_stage=norm_after_stage,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
        )


@MODELS.register_module()
class TwinsPCPVTBackbone(TwinsBackbone):
    """Twins-PCPVT: global sub-sampled attention (GSA) in every block, four scales of features.

    Args:
        arch: ``'small'``, ``'base'``, ``'large'``, or a dict of ``embed_dims``, ``depths``, ``num_heads`` and
            ``mlp_ratios`` with one value per stage.
        norm_after_stage: As in :class:`TwinsSVTBackbone`; the public PCPVT has no such norm, so False.

    The other arguments, initialisation and what is raised: see :class:`TwinsSVTBackbone`; there are no windows.

    Source: Twins (arXiv:2104.13840), section 3.1 and table 1; ``segmentation/gvt.py`` of the public code.
    """

    def __init__(
        self,
        *,
        arch: str | Mapping[str, Sequence] = 'small',
        in_channels: int = 3,
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        patch_padding: str = 'none',
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_after_stage: bool | Sequence[bool] = False,
        with_cp: bool = False,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        architecture = resolve_architecture(arch, PCPVT_ARCHITECTURES)
        dims, num_heads = architecture['embed_dims'], architecture['num_heads']
        _check_per_stage('sr_ratios', sr_ratios, len(dims))
        _check_rates(attn_drop_rate=attn_drop_rate)
        super().__init__(
            architecture=architecture,
            make_attention=lambda i, _: GlobalSubsampledAttention(
                dims[i], num_heads[i], sr_ratios[i], qkv_bias, attn_drop=attn_drop_rate, proj_drop=drop_rate
            ),
            sr_ratios=sr_ratios,
            in_channels=in_channels,
            patch_padding=patch_padding,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            norm_after_stage=norm_after_stage,
            with_cp=with_cp,
            frozen_stages=frozen_stages,
            init_cfg=init_cfg,
        )


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    else:
        return  # LayerNorm starts as 1 and 0
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def resolve_architecture(
    arch: str | Mapping[str, Sequence], named: Mapping[str, Mapping[str, Sequence]]
) -> Mapping[str, Sequence]:
    """embed_dims, depths, num_heads and mlp_ratios, checked, one value per stage each."""
    keys = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')
    if isinstance(arch, str):
        _check_choice('arch', arch, tuple(named))
        arch = named[arch]
    elif not isinstance(arch, Mapping) or set(arch) != set(keys):
        given = list(arch) if isinstance(arch, Mapping) else arch
        raise ValueError(f'arch={given!r}: give one of {", ".join(named)}, or a dict of exactly {keys}')
    num_stages = len(arch['embed_dims']) if _is_sequence(arch['embed_dims']) else 0
    for key in keys:
        _check_per_stage(f'arch[{key!r}]', arch[key], num_stages, (int, float) if key == 'mlp_ratios' else (int,))
    for dim, heads in zip(arch['embed_dims'], arch['num_heads'], strict=True):
        if dim % heads:
            raise ValueError(
                f'embed_dims={arch["embed_dims"]} is not divisible by num_heads={arch["num_heads"]}: {dim} channels '
                f'cannot be shared by {heads} heads'
            )
    return arch


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {", ".join(allowed)}')


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f'{name}={rate} is not a rate: give a number from 0 up to, but not including, 1')


def _is_sequence(values: object) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str)


def _check_per_stage(
    name: str, values: Sequence, num_stages: int, kinds: tuple[type[int] | type[float], ...] = (int,)
) -> None:
    if not _is_sequence(values) or len(values) != num_stages or not num_stages:
        raise ValueError(f'{name}={values!r} does not match the {num_stages} stages: give one value per stage')
    if not all(isinstance(value, kinds) and value > 0 for value in values):
        raise ValueError(f'{name}={values!r}: give a positive {"number" if float in kinds else "integer"} per stage')


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> None:
    valid = _is_sequence(out_indices) and len(out_indices) == len(set(out_indices)) > 0
    if not valid or not set(out_indices) <= set(range(num_stages)):
        raise ValueError(f'out_indices={out_indices!r}: give different stages out of 0 to {num_stages - 1}')
