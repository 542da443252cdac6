"""The self-check covers every kernel of the package."""

from pathlib import Path

import numpy as np
import pytest

from mimo_v2_flash import kernels
from mimo_v2_flash.checks.kernel_checks import CHECKS
from mimo_v2_flash.quantization.registry import FORMATS

SHARED = {  # modules that kernels share
    "attention", "axes", "ops", "traced_ops"
}  # fmt: skip


def test_every_kernel_and_format_is_checked():
    files = {path.stem for path in Path(kernels.__path__[0]).glob("*.py")} - {"__init__"}
    assert {check.kernel for check in CHECKS} == (files - SHARED) | set(FORMATS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.kernel}: {check.what}")
def test_what_is_compared_is_not_empty(check):
    pairs = check.run(np.random.default_rng(0))
    assert pairs
    for actual, expected in pairs:
        assert np.asarray(actual).shape == np.asarray(expected).shape
        assert np.asarray(actual).size
