"""The user's cache folder of this project: compiled code of CPUs, compiled programs of devices.

Source: XDG Base Directory Specification: a path in XDG_CACHE_HOME that is relative is ignored.
"""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder, with a "~" where the user's home is: not every user has one."""
    base = Path(env.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache")) / "mimo-v2-flash"
