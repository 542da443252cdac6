"""Parser of JSON objects, for every file that this package reads: what is no object is refused."""

import json
from pathlib import Path
from reprlib import Repr
from typing import Any

__all__ = ["parse_json", "parse_json_object", "read_json_object", "shorten"]

_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple = 4, 64, 64
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 100, 100, 500


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`; ValueError if it holds anything else, naming the file."""
    try:
        return parse_json_object(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def parse_json_object(content: bytes | str) -> dict[str, Any]:
    """Return the JSON object that `content` is; ValueError as of `parse_json`, or if it is none."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is needed, not {shorten(value)}")
    return value


def parse_json(content: bytes | str) -> Any:
    """Return the value that `content` is.

    Raises
    ------
    ValueError
        If it is not JSON, has a key twice, or is nested too deeply. The caller knows the file,
        and names it.
    """
    try:
        return json.loads(content, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("not JSON: it is nested too deeply") from None
    except ValueError as error:  # no UTF-8, or a number of thousands of digits, too
        raise ValueError(f"not JSON: {error}") from error


def shorten(value: object) -> str:
    """Return `value` in one line of a message, whatever its length and depth."""
    return _SHORT.repr(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's entries; JSON's own reader keeps the last value of a key in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"{twice!r} is there more than once")
    return content
