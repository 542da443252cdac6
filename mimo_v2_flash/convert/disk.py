"""Writing of bytes at an offset of a file, and checksums of files."""

import hashlib
import os
from pathlib import Path

__all__ = ["sha256_of", "write_all"]


def write_all(descriptor: int, data: bytes, begin: int) -> None:
    """Write all of `data` at byte `begin` of a file; one `pwrite` may write only a part."""
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, begin)
        view, begin = view[count:], begin + count


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, a megabyte in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
