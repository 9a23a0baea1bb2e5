"""The ImageNet classifier with the members that users of timm expect."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..models.architectures import check_choice, check_per_stage, check_rates, resolve_architecture
from ..models.attention import GlobalSubsampledAttention, LocallyGroupedSelfAttention
from ..models.block import recompute
from ..models.layers import MIN_INPUT_SIDE, check_images, drop_path_rates, init_weights, patch_size, stage_stride
from ..models.subsampling import subsampling_per_stage
from ..models.windows import WINDOW_PADDINGS
from ..models.windows import Size as Window
from .feature_maps import take_indices
from .tokens import Size, TokenBlock, TokenPatchEmbed, TokenPositionEncoding, to_map

POOLS = ('', 'avg')


class Twins(nn.Module):
    """Twins-SVT or Twins-PCPVT with a classifier, in timm's words and with timm's meaning.

    The names of the weights are timm's and the public code's. Blocks and position encodings take ``(x, (H, W))`` and
    ``(x, H, W)``, so that programs that cut the model and loop over its parts work as they are.

    Args:
        embed_dims: Channels of a token, per stage.
        depths: Blocks per stage.
        num_heads: Attention heads per stage.
        mlp_ratios: Hidden channels of the MLP per token channel, per stage.
        sr_ratios: Side of the sub-window that one GSA key and value summarises, or its rows and columns, per stage, in tokens.
        subsampling: How a sub-window becomes one key: ``'conv'``, ``'separable'`` or ``'pool'``, see
            :class:`mmtwins.models.attention.GlobalSubsampledAttention`; one for all stages, or one per stage.
        wss: Side of an LSA window, or its rows and columns, per stage, in tokens; None has GSA in every block (PCPVT).
        window_padding: What LSA does where a window side does not divide the map, see
            :class:`mmtwins.models.attention.LocallyGroupedSelfAttention`; timm pads with zeros.
        img_size: Side, or height and width, of the images in pixels. Checked as in timm; the model takes all sizes.
        patch_size: Side of a patch of the first stage, in pixels; 4 alone.
        in_chans: Channels of an image.
        num_classes: Outputs of the classifier; 0 has none.
        global_pool: ``'avg'``, the mean of the tokens, or ``''``, which classifies each token.
        drop_rate: Dropout rate before the classifier.
        pos_drop_rate: Dropout rate after the patch embeddings.
        proj_drop_rate: Dropout rate of attention outputs and in the MLPs.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth, rising linearly from 0 in the first block to this rate in the last.

    Raises:
        ValueError: An argument is out of its range.

    Source: ``timm/models/twins.py`` of timm 1.0.31, whose ``set_grad_checkpointing(True)`` is refused; here it works.
    """

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        sr_ratios: Sequence[Window] = (8, 4, 2, 1),
        subsampling: str | Sequence[str] = 'conv',
        wss: Sequence[Window] | None = None,
        window_padding: str = 'zero',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        arch = dict(embed_dims=embed_dims, depths=depths, num_heads=num_heads, mlp_ratios=mlp_ratios)
        resolve_architecture(arch, {})
        check_per_stage('sr_ratios', sr_ratios, len(depths), allow_pairs=True)
        subsampling = subsampling_per_stage(subsampling, len(depths))
        if wss is not None:
            check_per_stage('wss', wss, len(depths), allow_pairs=True)
        check_choice('window_padding', window_padding, tuple(WINDOW_PADDINGS))
        check_choice('global_pool', global_pool, POOLS)
        check_rates(drop_rate=drop_rate, pos_drop_rate=pos_drop_rate, proj_drop_rate=proj_drop_rate)
        check_rates(attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        _check_sizes(img_size, patch_size, stage_stride(len(depths) - 1))
        _check_count('in_chans', in_chans, 1)
        _check_count('num_classes', num_classes, 0)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.global_pool = global_pool
        self.depths = list(depths)
        self.embed_dims = list(embed_dims)
        self.num_features = self.head_hidden_size = self.embed_dims[-1]
        self.grad_checkpointing = False
        self.feature_info = [
            dict(module=f'block.{i}', num_chs=dim, reduction=stage_stride(i)) for i, dim in enumerate(embed_dims)
        ]
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg = self.pretrained_cfg

        def make_attention(i: int, j: int) -> nn.Module:
            rates: dict[str, Any] = dict(attn_drop=attn_drop_rate, proj_drop=proj_drop_rate)
            if wss is None or j % 2 == 1:
                gsa = GlobalSubsampledAttention(
                    embed_dims[i], num_heads[i], sr_ratios[i], subsampling=subsampling[i], **rates
                )
                return _ordered(gsa)
            return LocallyGroupedSelfAttention(embed_dims[i], num_heads[i], wss[i], window_padding, **rates)

        drop_paths = iter(drop_path_rates(drop_path_rate, sum(depths)))
        self.patch_embeds = nn.ModuleList()
        self.pos_drops = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for i, (dim, depth, mlp_ratio) in enumerate(zip(embed_dims, depths, mlp_ratios, strict=True)):
            self.patch_embeds.append(TokenPatchEmbed(embed_dims[i - 1] if i else in_chans, dim, _patch_size(i)))
            self.pos_drops.append(nn.Dropout(pos_drop_rate))
            blocks = (
                TokenBlock(make_attention(i, j), dim, mlp_ratio, proj_drop_rate, next(drop_paths)) for j in range(depth)
            )
            self.blocks.append(nn.ModuleList(blocks))
        self.pos_block = nn.ModuleList(TokenPositionEncoding(dim) for dim in embed_dims)
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W), at least 32 x 32 pixels -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> normed tokens of the last stage, (B, N, C)."""
        tokens, _ = self._run_stages(x, [], len(self.blocks))
        return self.norm(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Classify.

        Args:
            x: Tokens of :meth:`forward_features`, (B, N, C).
            pre_logits: Return what goes into the linear layer.

        Returns:
            (B, num_classes), or (B, N, num_classes) where ``global_pool`` is ``''``; with ``pre_logits`` or without a
            classifier, C in the place of ``num_classes``.
        """
        if self.global_pool == 'avg':
            x = x.mean(dim=1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> Any:
        """Compute the maps of stages.

        Args:
            x: Images, (B, in_chans, H, W), at least 32 x 32 pixels.
            indices: Stages to return: the last n for a number, all for None; negative ones count from the end.
            norm: Apply the final norm to the map of the last stage too.
            stop_early: Compute no stage after the last one of ``indices``.
            output_fmt: ``'NCHW'`` alone.
            intermediates_only: Return the maps alone.

        Returns:
            The maps (B, C_i, H_i, W_i) in the order of the stages; unless ``intermediates_only``, after what the last
            computed stage gives: the normed tokens (B, N, C), or its map (B, C_i, H_i, W_i) where stages are missing.

        Raises:
            ValueError: The image is too small or has another number of channels, or there is no such stage or format.
        """
        check_choice('output_fmt', output_fmt, ('NCHW',))
        num_stages = len(self.blocks)
        taken = take_indices(num_stages, indices)
        num_run = max(taken) + 1 if stop_early else num_stages
        x, maps = self._run_stages(x, taken, num_run, norm)
        if intermediates_only:
            return maps
        return self.norm(x) if num_run == num_stages else x, maps

    def _run_stages(
        self, x: Tensor, taken: Sequence[int], num_run: int, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the first stages: the tokens of the last stage, or the map of another one, and the maps of those taken."""
        check_images(x, self.in_chans, (MIN_INPUT_SIDE, MIN_INPUT_SIDE), 'set in_chans')
        maps = []
        for i in range(num_run):
            tokens, size = self._run_stage(i, x)
            is_last = i == len(self.blocks) - 1
            x = tokens if is_last else to_map(tokens, size).contiguous()
            if i in taken:
                maps.append(to_map(self.norm(tokens) if norm else tokens, size).contiguous() if is_last else x)
        return x, maps

    def _run_stage(self, i: int, x: Tensor) -> tuple[Tensor, Size]:
        """Map (B, C, H, W) -> tokens of the stage (B, N, C) and the size of their map."""
        tokens, size = self.patch_embeds[i](x)
        tokens = self.pos_drops[i](tokens)
        stage: Any = self.blocks[i]
        for j, block in enumerate(stage):
            recomputes = self.grad_checkpointing and tokens.requires_grad
            tokens = recompute(block, tokens, size) if recomputes else block(tokens, size)
            if j == 0:
                tokens = self.pos_block[i](tokens, size)
        return tokens, size

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of some stages do not need.

        Args:
            indices: As in :meth:`forward_intermediates`.
            prune_norm: Remove the final norm.
            prune_head: Remove the classifier and the pooling. Both go in any case if the last stage goes.

        Returns:
            The stages that ``indices`` stands for, counted from 0.

        Raises:
            ValueError: There is no such stage.
        """
        taken = take_indices(len(self.blocks), indices)
        end = max(taken) + 1
        cuts_end = end < len(self.blocks)
        for name in ('patch_embeds', 'pos_drops', 'blocks', 'pos_block'):
            setattr(self, name, getattr(self, name)[:end])
        if prune_norm or cuts_end:
            self.norm = nn.Identity()
        if cuts_end:
            self.num_features = self.head_hidden_size = self.embed_dims[end - 1]
        if prune_head or cuts_end:
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self) -> nn.Module:
        """The linear layer, or the identity where there are no classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a fresh one.

        Args:
            num_classes: Its outputs; 0 removes it.
            global_pool: As in the constructor; None leaves it as it is.

        Raises:
            ValueError: An argument is out of its range.
        """
        _check_count('num_classes', num_classes, 0)
        if global_pool is not None:
            check_choice('global_pool', global_pool, POOLS)
            self.global_pool = global_pool
        self.num_classes = num_classes
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        like = next(self.parameters())
        self.head = head.to(like.device, like.dtype).train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the weights without decay: the position encodings."""
        return {f'pos_block.{name}' for name, _ in self.pos_block.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that order the weights by depth, for learning rates that fall with it.

        Args:
            coarse: Whether a group is a stage, and not a block.
        """
        last = (r'^norm', (99999,))
        if coarse:
            blocks: list[Any] = [(r'^(?:blocks|patch_embeds|pos_block)\.(\d+)', None), last]
        else:
            blocks = [(r'^blocks\.(\d+)\.(\d+)', None), (r'^(?:patch_embeds|pos_block)\.(\d+)', (0,)), last]
        return dict(stem=r'^patch_embeds.0', blocks=blocks)


def _ordered(attn: GlobalSubsampledAttention) -> GlobalSubsampledAttention:
    """Put the sub-sampling last, as in timm: optimizers number the weights, and their states are loaded by the numbers."""
    if attn.subsamples:
        sr, norm = attn.sr, attn.norm
        del attn.sr, attn.norm
        attn.sr, attn.norm = sr, norm
    return attn


_patch_size = patch_size  # where an argument has its name


def _check_sizes(img_size: int | Sequence[int], patch_size: int, stride: int) -> None:
    sides = [img_size] * 2 if isinstance(img_size, int) else list(img_size)
    if len(sides) != 2 or any(not isinstance(side, int) or side < stride or side % stride for side in sides):
        raise ValueError(
            f'img_size={img_size!r}: give a multiple of {stride} pixels, or leave it out: the model takes all sizes'
        )
    if patch_size != _patch_size(0):
        raise ValueError(f'patch_size={patch_size!r}: the patches of the first stage have {_patch_size(0)} pixels')


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f'{name}={value!r}: give an integer of at least {least}')
