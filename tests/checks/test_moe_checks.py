"""The self-check of the mixture of experts notices a lost token."""

import numpy as np

from mimo_v2_flash.checks import moe_checks
from mimo_v2_flash.checks.moe_checks import MOE_CHECKS


def test_a_lost_output_shows(monkeypatch):
    (check,) = (check for check in MOE_CHECKS if check.kernel == "moe_dispatch")
    combine = moe_checks.combine
    monkeypatch.setattr(
        moe_checks, "combine", lambda a, buffer_row_NA: combine(a, buffer_row_NA[:, 1:])
    )
    actual, expected = check.run(np.random.default_rng(0))[0]
    assert np.max(np.abs(actual - expected)) > 0.1


def test_both_dispatchers_are_checked():
    checks = {check.what for check in MOE_CHECKS if check.kernel == "moe_block"}
    assert checks == {"4 ranks, all_to_all", "4 ranks, all_gather"}
