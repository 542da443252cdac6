"""The self-check of formats fails where a code or a scale is another."""

import numpy as np
import pytest

from mimo_v2_flash.checks.format_checks import FORMAT_CHECKS
from mimo_v2_flash.quantization import get_format


@pytest.mark.parametrize("check", FORMAT_CHECKS, ids=lambda check: check.kernel)
def test_it_passes_closely(check):
    errors = [check.measure(seed).error for seed in range(8)]
    assert check.allowed / 3 < max(errors) <= check.allowed


@pytest.mark.parametrize("check", FORMAT_CHECKS, ids=lambda check: check.kernel)
def test_a_weight_of_other_rows_fails(check, monkeypatch):
    form = get_format(check.kernel)
    dequantize = form.dequantize
    monkeypatch.setattr(form, "dequantize", lambda self: np.roll(dequantize(self), 1, axis=0))
    assert not check.measure(0).passed
