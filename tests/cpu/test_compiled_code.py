"""Tests of the compiled code in new processes: without numba, cached on disk, on a generic CPU."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimo_v2_flash.cpu import loops as compiled_loops

PRODUCTS = """
import json, sys
import numpy as np
from mimo_v2_flash.cpu import matmul as compiled_matmul
from mimo_v2_flash.kernels import ops
from tests.support.stored_weights import KINDS, assert_is_product, random_rows, random_weight

generator = np.random.default_rng(0)
for kind in KINDS:
    w = random_weight(generator, kind, 391, 300, 64)
    for N in (1, 5, 60):
        x_NI = random_rows(generator, N, 300)
        assert_is_product(compiled_matmul.product(x_NI, w), x_NI, w)
target = sys.modules["numba"].core.registry.cpu_target.target_context.codegen()
print(json.dumps({"cpu": target._get_host_cpu_name(), "features": target._get_host_cpu_features()}))
"""
WITHOUT = """
import sys
sys.modules["numba"] = None
import numpy as np
from mimo_v2_flash.kernels import ops
from tests.support.stored_weights import KINDS, assert_is_product, random_rows, random_weight

generator = np.random.default_rng(0)
for kind in KINDS:
    w, x_NI = random_weight(generator, kind, 391, 300, 64), random_rows(generator, 5, 300)
    y_NO = ops.matmul(x_NI, w)
    assert_is_product(y_NO, x_NI, w)
    assert np.array_equal(y_NO, ops.plain_matmul(x_NI, w))
assert ops._compiled_product() is None
"""
HOST, GENERIC = {}, {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
ROOT = Path(__file__).parents[2]


def test_code_on_disk_is_as_new_as_its_inner_parts():
    inner = ROOT / "mimo_v2_flash" / "cpu" / "tile.py"
    digest = hashlib.sha256(inner.read_bytes()).hexdigest()[:16]
    assert digest == compiled_loops.INNER, f"set INNER to {digest}: old cached code must not load"


def run(program: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def compiled_files(folder: Path) -> dict[str, Any]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.nb?")}


@pytest.mark.parametrize("machine", [HOST, GENERIC], ids=["this machine", "any machine"])
def test_the_second_start_compiles_nothing_and_both_are_right(tmp_path, machine):
    environment = machine | {"NUMBA_CACHE_DIR": str(tmp_path)}
    target = json.loads(run(PRODUCTS, **environment))
    if machine is GENERIC:
        assert target == {"cpu": "generic", "features": ""}
    compiled = compiled_files(tmp_path)
    assert compiled
    run(PRODUCTS, **environment)
    assert compiled_files(tmp_path) == compiled


def test_without_numba_numpy_multiplies():
    run(WITHOUT)
