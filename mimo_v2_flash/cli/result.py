"""Result of a command: its exit status, and its numbers, which `--json` writes as one object."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.atomic_file import atomic_write

__all__ = ["Result", "write_json"]


class Result(NamedTuple):
    """What a command returns.

    Attributes
    ----------
    numbers
        Everything that it measured or computed, by keys that end in the unit: `_seconds`,
        `_bytes`, `tokens_per_second`. Paths, NumPy's numbers and dtypes are allowed.
    status
        Exit status: 1 if the answer is no, else 0.
    """

    numbers: dict[str, Any]
    status: int = 0


def write_json(numbers: dict[str, Any], file: Path | None) -> None:
    """Write an object of JSON to standard output, or to `file`, which is replaced at once.

    Numbers that are not finite are null: JSON has none.
    """
    text = json.dumps(_plain(numbers), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if file is None:
        sys.stdout.write(text)
    else:
        with atomic_write(file) as partial:
            partial.write_text(text)


def _plain(value: Any) -> Any:
    """Return a value as the types of JSON."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, Path | np.dtype):
        return str(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value
