"""The host: processor, compiled code, BLAS, threads, memory, as this process may use them."""

import math
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import threadpoolctl
from rich.filesize import decimal

from mimo_v2_flash.cpu.free_memory import free_memory, memory_limit
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.cpu.thread_count import cgroup_quota, thread_count

from .diagnosis import NOTE, OK, PROBLEM, Diagnosis, attempt

__all__ = ["diagnose_host"]

NUMBA = 'pip install --force-reinstall "numba>=0.61,<1"'
LITTLE = 1 << 30  # bytes of free memory


def diagnose_host(root: Path = Path("/")) -> Iterator[Diagnosis]:
    """Yield the diagnoses of the host; `root` is the folder that holds `proc` and `sys`."""
    yield attempt("processor", _processor, NUMBA)
    yield attempt("compiled code", _compiled_code, NUMBA)
    yield attempt("BLAS", _blas, "pip install --force-reinstall numpy")
    yield attempt("threads", partial(_threads, root), "unset MIMO_NUM_THREADS")
    yield attempt("memory", partial(_memory, root), "free -h")


def _processor() -> Diagnosis:
    dicts: Any = np.show_config(mode="dicts")
    extensions = dicts.get("SIMD Extensions", {})
    simd = [*extensions.get("baseline", ()), *extensions.get("found", ())]
    numbers = {"cores": psutil.cpu_count(logical=False), "cpus": psutil.cpu_count(), "simd": simd}
    text = f"{numbers['cpus']} CPUs, {' '.join(simd) or 'no vector extensions that NumPy knows'}"
    return Diagnosis("processor", text, numbers=numbers)


def _compiled_code() -> Diagnosis:
    """Return whether numba compiles products here, and where it keeps them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unit, code = compiled_module("bfloat16_unit"), compiled_module("code_cache")
    if unit is None or code is None:
        return Diagnosis("compiled code", "numba cannot be used: products are slow", PROBLEM, NUMBA)
    folder = code.code_folder(code.SOURCES / "code_cache.py")
    numbers = {"folder": folder or None, "bfloat16_unit": unit.uses_unit()}
    text = f"kept in {folder}" if folder else "no folder can be written: each start compiles"
    text += f"; products in bfloat16 use {'a unit' if unit.uses_unit() else 'no unit'}"
    remedy = "" if folder else "export NUMBA_CACHE_DIR=FOLDER"
    return Diagnosis("compiled code", text, OK if folder else NOTE, remedy, numbers)


def _blas() -> Diagnosis:
    libraries = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]
    if not libraries:
        text = "a library whose threads threadpoolctl does not know: it keeps its own"
        return Diagnosis("BLAS", text, numbers={"libraries": []})
    keys = ("internal_api", "version", "architecture", "num_threads")
    numbers = [{key: library.get(key) for key in keys} for library in libraries]
    words = (
        "{internal_api} {version}, {architecture}, {num_threads} threads".format(**each)
        for each in numbers
    )
    return Diagnosis("BLAS", "; ".join(words), numbers={"libraries": numbers})


def _threads(root: Path) -> Diagnosis:
    count, quota = thread_count(), cgroup_quota(root)
    limit = "no CPU quota" if math.isinf(quota) else f"a CPU quota of {quota:g} cores"
    numbers = {"threads": count.number, "rule": count.rule}
    numbers |= {"quota_cores": None if math.isinf(quota) else quota}
    cpus = psutil.cpu_count() or 1
    is_fewer = count.rule == "OMP_NUM_THREADS" and count.number < min(cpus, quota)
    remedy = f"export MIMO_NUM_THREADS={int(min(cpus, max(quota, 1)))}" if is_fewer else ""
    text = f"{count}, {limit}"
    return Diagnosis("threads", text, NOTE if is_fewer else OK, remedy, numbers)


def _memory(root: Path) -> Diagnosis:
    total, limit, free = psutil.virtual_memory().total, memory_limit(root), free_memory(root)
    text = f"{decimal(free)} free of {decimal(total)}"
    text += f", limited to {decimal(limit)} by a cgroup" if limit < total else ", no cgroup limit"
    numbers = {"total_bytes": total, "limit_bytes": limit, "free_bytes": free}
    is_little = free < LITTLE
    remedy = "ps -eo rss,pid,comm --sort -rss | head" if is_little else ""
    return Diagnosis("memory", text, PROBLEM if is_little else OK, remedy, numbers)
