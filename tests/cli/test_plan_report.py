"""The verdict on a plan is one sentence; test_plan.py tests the tables."""

import pytest

from mimo_v2_flash.cli.plan_report import verdict
from mimo_v2_flash.costs import Device

GIGA = 10**9
DEVICE = Device({"experts": 8 * GIGA, "head": 2 * GIGA}, 3 * GIGA, {"exchange": GIGA})


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        (20, "It fits: 14.0 GB of 20.0 GB, 6.0 GB are free."),
        (14, "It fits: 14.0 GB of 14.0 GB, 0 bytes are free."),
        (
            12,
            "It does not fit: 14.0 GB, 2.0 GB more than 12.0 GB (weights 10.0 GB, cache 3.0 GB, "
            "buffers 1.0 GB). A chip has 96.0 GB.",
        ),
        (
            9,
            "It does not fit: 14.0 GB, 5.0 GB more than 9.0 GB (weights 10.0 GB, cache 3.0 GB, "
            "buffers 1.0 GB). The weights alone are too much. A chip has 96.0 GB.",
        ),
    ],
)
def test_what_fits_and_by_how_much(memory, sentence):
    assert verdict(DEVICE, memory * GIGA) == sentence


def test_a_chip_is_not_offered_to_a_plan_that_does_not_fit_it():
    assert verdict(DEVICE._replace(cache=90 * GIGA), 24 * GIGA).endswith("buffers 1.0 GB).")
