"""Compiled kernels and the thread pool: what makes stored weights fast on a CPU."""

from .system import check_system

check_system()
