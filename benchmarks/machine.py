"""Description of the machine, and its limits: read bandwidth and matmul throughput."""

import os
import platform
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.cpu.thread_count import thread_count

from .clock import median_seconds

__all__ = ["bytes_per_second", "describe_machine", "limits"]

VERSIONS = ("numpy", "numba", "torch", "transformers")
UNITS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # the last two multiply bfloat16 faster
STREAMED = 1 << 30  # bytes
WIDTH = 4096  # of the matrices of the matmul
PART = 1 << 24  # bytes that one thread sums up at one time
TIMES = 7


def describe_machine() -> dict[str, Any]:
    """Return the hardware and software that results depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return {
        "cpu": models[0] if models else platform.machine(),
        "units": [unit for unit in UNITS if unit in flags],
        "cores": len(os.sched_getaffinity(0)),
        "threads": str(thread_count()),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        **{package: version(package) for package in VERSIONS},
    }


def limits(*, quick: bool) -> dict[str, Any]:
    """Measure bytes read per second and float32 operations per second, all threads together."""
    width, streamed = (WIDTH // 4, STREAMED // 16) if quick else (WIDTH, STREAMED)
    ones = np.ones(streamed // 8, np.int64)
    return {"bytes_per_second": bytes_per_second([ones]), "flops_per_second": _blas_rate(width)}


def bytes_per_second(arrays: Iterable[np.ndarray]) -> float:
    """Return the read bandwidth of all threads together: a streaming sum of `arrays`.

    Pass the arrays that a benchmark reads: on a virtual machine some pages are much slower.
    """
    wholes = [array.reshape(-1).view(np.int64) for array in arrays]
    parts = [part for whole in wholes for part in np.array_split(whole, -(-whole.nbytes // PART))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # NumPy's sum releases the GIL
        elapsed = median_seconds(lambda: list(pool.map(np.sum, parts)), TIMES)
    return sum(whole.nbytes for whole in wholes) / elapsed


def _blas_rate(width: int) -> float:
    numbers = np.random.default_rng(0).random((width, width), np.float32)
    product = np.empty_like(numbers)
    return 2 * width**3 / median_seconds(lambda: np.matmul(numbers, numbers, out=product), TIMES)
