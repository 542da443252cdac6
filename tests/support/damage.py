"""Fault injection for checkpoints: each function returns a function that damages a folder.

change_entry("model_1.safetensors", "model.norm.weight", dtype="I8")(folder)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"

Damage = Callable[[Path], Any]


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a sound file as JSON, and the byte at which data begins."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), start


def change_header(file: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the header of a safetensors file, but not its data."""

    def damage(folder: Path) -> None:
        header, start = read_header(folder / file)
        data = (folder / file).read_bytes()[start:]
        change(header)
        text = json.dumps(header).encode()
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)

    return damage


def change_entry(file: str, name: str, **fields: object) -> Damage:
    """Change fields of a tensor in the header of a file."""
    return change_header(file, lambda header: header[name].update(fields))


def drop(file: str, name: str) -> Damage:
    """Remove a tensor from a header; its bytes are those of a tensor that no index names."""
    return change_header(file, lambda header: header.update({"dropped": header.pop(name)}))


def change_index(change: Callable[[dict[str, str]], object]) -> Damage:
    """Change the weight map of the index."""

    def damage(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def place_elsewhere(name: str, file: str) -> Damage:
    """Change the file of a tensor in the index."""
    return change_index(lambda file_of: file_of.update({name: file}))


def overwrite(file: str, data: bytes, name: str | None = None) -> Damage:
    """Overwrite the first bytes of a tensor, or of the file if no tensor is named."""

    def damage(folder: Path) -> None:
        header, start = read_header(folder / file) if name else ({}, 0)
        with (folder / file).open("r+b") as opened:
            opened.seek(start + header[name]["data_offsets"][0] if name else 0)
            opened.write(data)

    return damage


def cut(file: str, size: int) -> Damage:
    """Keep the first bytes of a file, or all but the last if `size` is negative."""
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def both(*damages: Damage) -> Damage:
    """Apply `damages` one after the other."""
    return lambda folder: [damage(folder) for damage in damages]
