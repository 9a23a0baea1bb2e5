"""Results of long measurements, a JSON file each, so that a measurement that was stopped goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def keep_result(
    path: Path, measure: Callable[[], Result], is_outdated: Callable[[Result], bool], only_kept: bool = False
) -> Result | None:
    """Give a result that an earlier call has kept, or measure it and keep it.

    Args:
        path: JSON file of the result. It appears when it is whole.
        measure: Gives the result.
        is_outdated: Whether to measure again what was kept.
        only_kept: Measure nothing.

    Returns:
        The result; None if there is none, with ``only_kept``.
    """
    known: Result | None = json.loads(path.read_text()) if path.exists() else None
    if only_kept or (known is not None and not is_outdated(known)):
        return known
    found = measure()
    part = path.with_suffix('.part')
    part.write_text(json.dumps(found, indent=2) + '\n')
    part.replace(path)
    return found
