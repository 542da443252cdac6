"""JSON as the server sends it: what clients sent may be in it, numbers that JSON lacks too."""

import json
from typing import Any

from pydantic_core import to_json

__all__ = ["json_bytes"]


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON, in which infinity and NaN are null.

    pydantic writes a token's chunk in a tenth of the time of `json`.

    Examples
    --------
    >>> json_bytes({"é": [1, float("nan")]}).decode()
    '{"é":[1,null]}'
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except ValueError:  # a lone surrogate, which UTF-8 lacks and JSON may escape
        return json.dumps(value).encode()
