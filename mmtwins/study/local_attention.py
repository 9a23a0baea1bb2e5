"""Twins with local attention alone, to compare with."""

from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS

from ..models.architectures import ARCHITECTURES, check_per_stage, resolve_architecture
from ..models.attention import LocallyGroupedSelfAttention
from ..models.backbone import TwinsBackbone


@MODELS.register_module()
class TwinsLocalBackbone(TwinsBackbone):
    """Twins with LSA in every block, an arm of the study and no model for use: :class:`TwinsSVTBackbone` without GSA.

    What is outside a window reaches a token only through position encodings, and through patch embeddings where windows
    of two stages do not coincide.

    Args:
        arch: As :class:`TwinsSVTBackbone`'s.
        window_sizes: Side of an LSA window per stage, in tokens.
        drop_path_rate: As :class:`TwinsSVTBackbone`'s.
        init_cfg: As :class:`TwinsSVTBackbone`'s.

    Raises:
        ValueError: An argument is out of its range, or lengths do not match the number of stages.

    Source: the LSA-only models of the paper's ablation, Twins (arXiv:2104.13840), section 4.4.
    """

    def __init__(
        self,
        *,
        arch: str | Mapping[str, Sequence] = 'small',
        window_sizes: Sequence[int] = (7, 7, 7, 7),
        drop_path_rate: float = 0.2,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        architecture = resolve_architecture(arch, ARCHITECTURES)
        dims, num_heads = architecture['embed_dims'], architecture['num_heads']
        check_per_stage('window_sizes', window_sizes, len(dims))
        super().__init__(
            architecture=architecture,
            make_attention=lambda i, _: LocallyGroupedSelfAttention(dims[i], num_heads[i], window_sizes[i]),
            sr_ratios=(1,) * len(dims),
            in_channels=3,
            patch_padding='none',
            drop_rate=0.0,
            drop_path_rate=drop_path_rate,
            out_indices=tuple(range(len(dims))),
            norm_after_stage=True,
            with_cp=False,
            frozen_stages=-1,
            init_cfg=init_cfg,
        )
