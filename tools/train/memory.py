"""Memory that training keeps: freed tensors' with the process, and oneDNN's prepared products."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "keep_prepared_products"]

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX, LARGEST = -1, -4, -8, 2**31 - 1


def keep_freed_memory() -> None:
    """Keep freed memory for the next tensor; else the system clears each page of each anew."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_MAX, 0)
            libc.mallopt(M_TRIM_THRESHOLD, LARGEST)
            libc.mallopt(M_ARENA_MAX, 1)  # what a thread alone frees goes back to the system


def keep_prepared_products() -> None:
    """Let oneDNN keep what it prepared for all shapes of a run; it reads this at its first one."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
