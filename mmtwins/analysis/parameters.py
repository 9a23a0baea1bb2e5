"""How many parameters a Twins backbone has, in closed form."""

from collections.abc import Mapping, Sequence

from ..models.architectures import (
    ARCHITECTURES,
    PCPVT_ARCHITECTURES,
    check_choice,
    check_per_stage,
    resolve_architecture,
)
from ..models.layers import patch_size
from ..models.subsampling import SUBSAMPLINGS, subsampling_per_stage
from ..models.windows import Size, as_pair


def subsampling_parameters(dim: int, sr_ratio: Size, subsampling: str = 'conv') -> int:
    """Parameters of the sub-sampling of one ``GlobalSubsampledAttention``, its norm included.

    Args:
        dim: Channels C of a token.
        sr_ratio: Side of a sub-window, or its rows and columns, in tokens.
        subsampling: As the backbone's.

    Returns:
        Their number; 0 where each token is its own sub-window.

    Raises:
        ValueError: There is no such sub-sampling.
    """
    check_choice('subsampling', subsampling, tuple(SUBSAMPLINGS))
    rows, columns = as_pair(sr_ratio)
    if rows * columns == 1:
        return 0
    weights = {
        'conv': dim**2 * rows * columns + dim,
        'separable': dim * rows * columns + dim**2 + dim,
        'pool': 0,
    }
    return weights[subsampling] + 2 * dim


def backbone_parameters(
    arch: str | Mapping[str, Sequence],
    window_sizes: Sequence[Size] | None = (7, 7, 7, 7),
    sr_ratios: Sequence[Size] = (8, 4, 2, 1),
    subsampling: str | Sequence[str] = 'conv',
    in_channels: int = 3,
    qkv_bias: bool = True,
    norm_after_stage: bool | None = None,
) -> list[dict[str, int]]:
    """Parameters of a Twins backbone, in closed form. Windows need none.

    Args:
        arch: As the backbone's; a name of Twins-SVT, or of Twins-PCPVT where there are no windows.
        window_sizes: None for Twins-PCPVT, which has GSA in every block.
        sr_ratios: As the backbone's.
        subsampling: As the backbone's.
        in_channels: Channels of the image.
        qkv_bias: As the backbone's.
        norm_after_stage: As the backbone's; None is its default: a norm after each stage in Twins-SVT alone.

    Returns:
        Parameters per stage, by part: ``patch_embed``, ``peg``, ``attention`` (projections of both kinds),
        ``subsampling``, ``mlp`` and ``norms``.

    Raises:
        ValueError: The architecture or sub-sampling is unknown, or values are not one per stage.
    """
    architecture = resolve_architecture(arch, PCPVT_ARCHITECTURES if window_sizes is None else ARCHITECTURES)
    dims = architecture['embed_dims']
    check_per_stage('sr_ratios', sr_ratios, len(dims), allow_pairs=True)
    kinds = subsampling_per_stage(subsampling, len(dims))
    has_norm = window_sizes is not None if norm_after_stage is None else norm_after_stage
    stages = []
    for i, dim in enumerate(dims):
        depth, hidden = architecture['depths'][i], int(dim * architecture['mlp_ratios'][i])
        num_gsa = depth if window_sizes is None else depth // 2
        stages.append(
            dict(
                patch_embed=dim * (in_channels * patch_size(i) ** 2 + 1) + 2 * dim,
                peg=dim * 10,
                attention=depth * (4 * dim**2 + dim + 3 * dim * qkv_bias),
                subsampling=num_gsa * subsampling_parameters(dim, sr_ratios[i], kinds[i]),
                mlp=depth * (2 * dim * hidden + dim + hidden),
                norms=depth * 4 * dim + 2 * dim * has_norm,
            )
        )
        in_channels = dim
    return stages
