"""Published efficiencies: the bounds beside the milliseconds that others have measured."""

import pytest

from mimo_v2_flash.costs.efficiency import published_efficiency

BOUNDS = {"fp8": 14.72, "bfloat16": 19.85}  # ms, 64 ranks, expert and tensor parallel, batch 32
SLOWEST, QUICKEST = {"fp8": 219, "bfloat16": 147}, {"fp8": 58, "bfloat16": 34.7}


@pytest.mark.parametrize("dtype", BOUNDS)
def test_the_range_is_that_of_published_steps(dtype):
    efficiency = published_efficiency(dtype)
    assert efficiency.least == pytest.approx(BOUNDS[dtype] / SLOWEST[dtype], abs=0.005)
    assert efficiency.most == pytest.approx(BOUNDS[dtype] / QUICKEST[dtype], abs=0.005)
    assert efficiency.row.startswith(dtype)


def test_wider_weights_have_the_range_of_bfloat16():
    assert published_efficiency("float32") == published_efficiency("bfloat16")
