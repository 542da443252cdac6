"""The systems that this package runs on: others are refused in a sentence, when it is imported.

Conversion and caches need POSIX (`fcntl`, `os.pwrite`); files are mapped as they are stored,
little-endian, and some are larger than a 32-bit address space.
"""

import platform
import sys
from importlib.util import find_spec

__all__ = ["check_system"]

POSIX = ("fcntl", "resource")


def check_system() -> None:
    """Raise ImportError on Windows, and on processors that are big-endian or of 32 bits."""
    is_posix = all(find_spec(name) for name in POSIX)
    if not (is_posix and sys.byteorder == "little" and sys.maxsize > 2**32):
        raise ImportError(
            "mimo_v2_flash runs on Linux and macOS, with a little-endian processor of 64 bits (on "
            f"Windows in WSL); this is {platform.system()} on {platform.machine()}"
        )
