"""The published architectures, and checks of what a user says of one."""

from collections.abc import Mapping, Sequence

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


def resolve_architecture(
    arch: str | Mapping[str, Sequence], named: Mapping[str, Mapping[str, Sequence]]
) -> Mapping[str, Sequence]:
    """An architecture, checked.

    Args:
        arch: Name, or ``embed_dims``, ``depths``, ``num_heads`` and ``mlp_ratios`` with one value per stage each.
        named: Architectures by name.

    Returns:
        The four sequences.

    Raises:
        ValueError: There is no such name, or the values do not make an architecture.
    """
    keys = ('embed_dims', 'depths', 'num_heads', 'mlp_ratios')
    if isinstance(arch, str):
        check_choice('arch', arch, tuple(named))
        arch = named[arch]
    elif not isinstance(arch, Mapping) or set(arch) != set(keys):
        given = list(arch) if isinstance(arch, Mapping) else arch
        raise ValueError(f'arch={given!r}: give one of {", ".join(named)}, or a dict of exactly {keys}')
    num_stages = len(arch['embed_dims']) if is_sequence(arch['embed_dims']) else 0
    for key in keys:
        check_per_stage(f'arch[{key!r}]', arch[key], num_stages, (int, float) if key == 'mlp_ratios' else (int,))
    for dim, heads in zip(arch['embed_dims'], arch['num_heads'], strict=True):
        if dim % heads:
            raise ValueError(
                f'embed_dims={arch["embed_dims"]} is not divisible by num_heads={arch["num_heads"]}: {dim} channels '
                f'cannot be shared by {heads} heads'
            )
    return arch


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is none of those allowed, with a ValueError."""
    if value not in allowed:
        raise ValueError(f'{name}={value!r} is unknown: choose one of {", ".join(allowed)}')


def check_rates(**rates: float) -> None:
    """Refuse what is no rate from 0 up to 1, with a ValueError."""
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(f'{name}={rate} is not a rate: give a number from 0 up to, but not including, 1')


def is_sequence(values: object) -> bool:
    """Whether values are a list or tuple, and no string."""
    return isinstance(values, Sequence) and not isinstance(values, str)


def check_per_stage(
    name: str,
    values: Sequence,
    num_stages: int,
    kinds: tuple[type[int] | type[float], ...] = (int,),
    allow_pairs: bool = False,
) -> None:
    """Refuse what is not one positive number, or pair of them where these are allowed, per stage, with a ValueError."""
    if not is_sequence(values) or len(values) != num_stages or not num_stages:
        raise ValueError(f'{name}={values!r} does not match the {num_stages} stages: give one value per stage')
    numbers: list = []
    for value in values:
        numbers += value if allow_pairs and is_sequence(value) and len(value) == 2 else [value]
    if not all(isinstance(number, kinds) and number > 0 for number in numbers):
        what = f'a positive {"number" if float in kinds else "integer"} per stage'
        raise ValueError(
            f'{name}={values!r}: give {what}{", or a pair of them (rows, columns)" if allow_pairs else ""}'
        )


def check_out_indices(out_indices: Sequence[int], num_stages: int) -> None:
    """Refuse what is not a choice of different stages, with a ValueError."""
    valid = is_sequence(out_indices) and len(out_indices) == len(set(out_indices)) > 0
    if not valid or not set(out_indices) <= set(range(num_stages)):
        raise ValueError(f'out_indices={out_indices!r}: give different stages out of 0 to {num_stages - 1}')
