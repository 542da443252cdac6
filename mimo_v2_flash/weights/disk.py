"""Bytes on a disk: written where they belong, and read again for their checksum."""

import hashlib
import os
from pathlib import Path

__all__ = ["sha256_of", "write_all"]


def write_all(descriptor: int, data: bytes, begin: int) -> None:
    """Write all of `data` from byte `begin` of a file on; a system may take a part at a time."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, begin)
        view, begin = view[count:], begin + count


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, a megabyte in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while portion := file.read(1 << 20):
            digest.update(portion)
    return digest.hexdigest()
