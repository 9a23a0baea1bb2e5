"""Twins-SVT and Twins-PCPVT as backbones for dense prediction. Tokens stay contiguous (B, H, W, C) from end to end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..weights.applying import fit_on_load
from .architectures import (
    ARCHITECTURES,
    PCPVT_ARCHITECTURES,
    check_choice,
    check_out_indices,
    check_per_stage,
    check_rates,
    is_sequence,
    resolve_architecture,
)
from .attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from .block import TwinsBlock, recompute
from .compiling import is_compiling
from .fast_path import threads_of
from .layers import (
    MIN_INPUT_SIDE,
    PATCH_PADDINGS,
    PatchEmbed,
    PositionEncodingGenerator,
    check_images,
    drop_path_rates,
    init_weights,
    patch_size,
    stage_stride,
)
from .subsampling import subsampling_per_stage
from .windows import WINDOW_PADDINGS, Size, as_pair


class TwinsBackbone(BaseModule):
    """What both families share: four stages of patch embedding, blocks with a PEG after the first, and a norm.

    Args:
        architecture: ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratios``, one value per stage each.
        make_attention: Attention on (B, H, W, C) for (stage, block), both counted from 0.
        sr_ratios: Side of the sub-window that one GSA key and value summarises, or its rows and columns, per stage, in
            tokens.

    The other arguments, what is raised and the source: see :class:`TwinsSVTBackbone`.
    """

    def __init__(
        self,
        *,
        architecture: Mapping[str, Sequence],
        make_attention: Callable[[int, int], nn.Module],
        sr_ratios: Sequence[Size],
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
        check_choice('patch_padding', patch_padding, PATCH_PADDINGS)
        check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        check_out_indices(out_indices, num_stages)
        if isinstance(norm_after_stage, bool):
            norm_after_stage = (norm_after_stage,) * num_stages
        elif not is_sequence(norm_after_stage) or len(norm_after_stage) != num_stages:
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
        drop_paths = iter(drop_path_rates(drop_path_rate, sum(depths)))

        self.patch_embeds = nn.ModuleList()
        self.pos_drops = nn.ModuleList()
        self.pos_block = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.norm_list = nn.ModuleList()
        smallest = [MIN_INPUT_SIDE, MIN_INPUT_SIDE]  # height and width of an image: one sub-window in each stage
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
            smallest = [max(side, stage_stride(i) * sr) for side, sr in zip(smallest, as_pair(sr_ratios[i]))]
            in_channels = dim
        self.min_input_size = smallest[0], smallest[1]
        self.min_input_side = max(self.min_input_size)  # of a square

        self.apply(init_weights)
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
        check_images(x, self.in_channels, self.min_input_size)
        if is_compiling():
            return self._features(x)
        with threads_of(x):
            return self._features(x)

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        features = {}
        x = x.permute(0, 2, 3, 1).contiguous()
        stages: Iterator[Any]  # nn.ModuleList does not say what it holds
        # Equally many of each; torch.compile of torch 2.1 does not know strict.
        stages = zip(self.patch_embeds, self.pos_drops, self.blocks, self.pos_block, self.norm_list)
        for i, (patch_embed, pos_drop, blocks, pos_block, norm) in enumerate(stages):
            x = pos_drop(patch_embed(x))  # (B, H_i, W_i, C_i)
            for j, block in enumerate(blocks):
                x = recompute(block, x) if self.with_cp and x.requires_grad else block(x)
                if j == 0:
                    x = pos_block(x)
            x = norm(x)
            if i in self.out_indices:
                # mmcv's RoIAlign takes any memory for contiguous: channels-last maps would give wrong features.
                features[i] = x.permute(0, 3, 1, 2).contiguous()
        return tuple(features[i] for i in self.out_indices)

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
        window_sizes: Side of an LSA window, or its rows and columns, per stage, in tokens: ``(7, (7, 14), 7, 7)``.
        sr_ratios: Side of the sub-window that one GSA key and value summarises, or its rows and columns, per stage, in
            tokens: ``(8, (4, 8), 2, 1)``.
        subsampling: How the tokens of a sub-window become one key and value: ``'conv'`` (public code), ``'separable'`` or
            ``'pool'``, see :class:`GlobalSubsampledAttention`; one for all stages, or one per stage.
        window_padding: What LSA does where windows do not divide the feature map: ``'masked'``, ``'zero'``
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
        window_sizes: Sequence[Size] = (7, 7, 7, 7),
        sr_ratios: Sequence[Size] = (8, 4, 2, 1),
        subsampling: str | Sequence[str] = 'conv',
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
        check_per_stage('window_sizes', window_sizes, len(dims), allow_pairs=True)
        check_per_stage('sr_ratios', sr_ratios, len(dims), allow_pairs=True)
        subsampling = subsampling_per_stage(subsampling, len(dims))
        check_choice('window_padding', window_padding, tuple(WINDOW_PADDINGS))
        check_rates(attn_drop_rate=attn_drop_rate)

        def make_attention(i: int, j: int) -> nn.Module:
            rates: dict[str, Any] = dict(attn_drop=attn_drop_rate, proj_drop=drop_rate)
            if j % 2 == 0:
                return LocallyGroupedSelfAttention(
                    dims[i], num_heads[i], window_sizes[i], window_padding, qkv_bias, **rates
                )
            return GlobalSubsampledAttention(
                dims[i], num_heads[i], sr_ratios[i], qkv_bias, subsampling=subsampling[i], **rates
            )

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
        sr_ratios: Sequence[Size] = (8, 4, 2, 1),
        subsampling: str | Sequence[str] = 'conv',
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
        check_per_stage('sr_ratios', sr_ratios, len(dims), allow_pairs=True)
        subsampling = subsampling_per_stage(subsampling, len(dims))
        check_rates(attn_drop_rate=attn_drop_rate)
        super().__init__(
            architecture=architecture,
            make_attention=lambda i, _: GlobalSubsampledAttention(
                dims[i], num_heads[i], sr_ratios[i], qkv_bias, attn_drop_rate, drop_rate, subsampling[i]
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
