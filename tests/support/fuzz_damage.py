"""Damage to a file: bytes flipped or cut, values of JSON replaced or removed, or the file gone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

__all__ = ["Damage", "apply", "damages"]

ODD_CONTENTS = (
    *(b"", b" ", b"null", b"[]", b"{}", b"0", b'"x"', b"NaN", b"nul", b"{]", b"{{", b"{% for %}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\x00" * 64, "{}".encode("utf-16")),
    *(b'"\\ud800"', b'{"a": 1, "a": 2}', b"\xef\xbb\xbf{}", b"\x80" * 9, b"\xff\xfe\x00"),
)
ODD_VALUES = (
    *(None, True, False, 0, 1, 2, 3, -1, 64, 10**9, 10**30, -(10**30), 0.0, 0.5, 2.0, -1.5),
    *(1e300, float("inf"), float("nan"), "", "x", "2", "\ud800", "\0", "../x", "/etc", "F64", "I8"),
    *([], [[]], [0], [None], [1, 2], ["x"], {}, {"a": 1}, {"type": "x"}, [[[[[]]]]] * 3, "é" * 300),
)
SAFETENSORS = ".safetensors"


class Damage(NamedTuple):
    """What is changed in one file: a kind of change, where, and what is written there."""

    file: str
    kind: str
    at: int = 0
    value: Any = None


@st.composite
def damages(draw: Any, files: list[str]) -> Damage:
    kind = draw(st.sampled_from(["replace"] * 5 + ["remove"] * 2 + [*CHANGES, *GONE]))
    trees = [name for name in files if name.endswith((".json", SAFETENSORS))]
    file = draw(st.sampled_from(trees if kind in ("replace", "remove") and trees else files))
    # All of a text is computed: a long one is no damage.
    contents = [odd for odd in ODD_CONTENTS if len(odd) <= 5000 or not file.endswith(".txt")]
    odd = {"replace": ODD_VALUES, "write": contents, "flip": range(1, 256)}.get(kind, (None,))
    return Damage(file, kind, draw(st.integers(0, 2**20)), draw(st.sampled_from(odd)))


def apply(damage: Damage, path: Path) -> None:
    if not path.is_file():  # an earlier damage
        return
    content = path.read_bytes()
    path.unlink()
    if damage.kind in CHANGES:
        path.write_bytes(CHANGES[damage.kind](damage, content))
    else:
        GONE[damage.kind](path)


def _changed_tree(damage: Damage, content: bytes) -> bytes:
    """Return a file of JSON, or one with a header of JSON, with a value replaced or removed."""
    start = 0
    if damage.file.endswith(SAFETENSORS):
        start = 8 + int.from_bytes(content[:8], "little")
    try:
        tree = {"": json.loads(content[8:start] if start else content)}
    except (ValueError, RecursionError):  # an earlier damage, or a file of text
        return content
    places = [*_places(tree)]
    parent, key = places[damage.at % len(places)]
    if damage.kind == "remove":
        del parent[key]
    else:
        parent[key] = damage.value
    text = json.dumps(tree.get("")).encode()
    return len(text).to_bytes(8, "little") + text + content[start:] if start else text


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value in a tree of JSON as its container and its key there."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _flipped(damage: Damage, content: bytes) -> bytes:
    at = damage.at % max(len(content), 1)
    return (
        content[:at]
        + bytes(byte ^ damage.value for byte in content[at : at + 1])
        + content[at + 1 :]
    )


CHANGES: dict[str, Callable[[Damage, bytes], bytes]] = {
    "replace": _changed_tree,
    "remove": _changed_tree,
    "write": lambda damage, _: damage.value,
    "flip": _flipped,
    "cut": lambda damage, content: content[: damage.at % max(len(content), 1)],
}
GONE: dict[str, Callable[[Path], Any]] = {
    "absent": id,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
}
