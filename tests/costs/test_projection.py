"""Roofline model: each term by hand, and published bounds of the real model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.costs.lower_bound import LowerBound
from mimo_v2_flash.costs.projection import RooflineTime, lower_bound_seconds, roofline_time
from mimo_v2_flash.costs.trainium2 import SBUF
from mimo_v2_flash.execution.program_cost import Collective, Matmul, ProgramCost, Temporary

NOTHING = ProgramCost(1, (), {}, {}, 0, (), ())
EXPERT = 3 * 4096 * 2048
"""Parameters of an expert of MiMo-V2-Flash."""


def test_nothing_takes_no_time():
    assert roofline_time(NOTHING).with_operations == 0


def test_memory_is_what_is_read_and_written():
    cost = NOTHING._replace(read={"w": 500, "x": 200}, written={"c": 20}, returned=5)
    assert roofline_time(cost).memory == pytest.approx(725 / 725e9)


def test_an_expert_takes_as_long_as_its_bytes():
    """34.7 us in FP8, 69.4 us in bfloat16: published sizes and bandwidth."""
    for item, us in ((1, 34.7), (2, 69.4)):
        seconds = roofline_time(NOTHING._replace(read={"w": EXPERT * item}))
        assert 1e6 * seconds.bound == pytest.approx(us, rel=1e-3)


def test_temporaries_that_fit_on_the_chip_are_no_memory():
    small, large = Temporary(SBUF, 9 * SBUF), Temporary(SBUF + 1, SBUF)
    assert roofline_time(NOTHING._replace(temporaries=(small,))).memory == 0
    both = roofline_time(NOTHING._replace(temporaries=(small, large)))
    assert both.memory == pytest.approx((2 * SBUF + 1) / 725e9)
    assert both.operations == pytest.approx(2 * 2e-6)


@given(st.integers(1, 128), st.integers(1, 128))
def test_one_row_takes_as_long_as_128(few, more):
    """The experts of 64 ranks, 4 in each of 47 layers: 7.7 ms of matmuls, for up to 128 rows."""
    experts = tuple(Matmul(1, rows, EXPERT // 4096, 4096) for rows in (few, more))
    one, other = (roofline_time(NOTHING._replace(matmuls=(matmul,))) for matmul in experts)
    assert one.matmuls == other.matmuls
    assert 1e3 * 47 * 4 * one.matmuls == pytest.approx(7.7, rel=0.01)


def test_large_matmuls_take_their_operations_and_batches_their_number():
    matmul = Matmul(2, 256, 512, 4096)
    seconds = roofline_time(NOTHING._replace(matmuls=(matmul,))).matmuls
    assert seconds == pytest.approx(matmul.operations / 158e12)
    transposed = matmul._replace(rows=4096, columns=256)
    assert roofline_time(NOTHING._replace(matmuls=(transposed,))).matmuls == seconds


def test_depth_is_rounded_up_as_rows_are():
    shallow, deep = (
        roofline_time(NOTHING._replace(matmuls=(Matmul(1, 7, depth, 4096),))).matmuls
        for depth in (1, 128)
    )
    assert shallow == deep > 0


def test_96_least_exchanges_take_what_is_published():
    collectives = tuple(Collective("all-reduce", 64, 0) for _ in range(96))
    assert 1e3 * roofline_time(NOTHING._replace(collectives=collectives)).bound == pytest.approx(
        1.68
    )
    one = roofline_time(NOTHING._replace(collectives=(Collective("all-gather", 64, 2_060_000),)))
    assert 1e6 * one.collectives == pytest.approx(38.1, rel=1e-3)


def test_memory_and_matmuls_overlap_and_exchanges_do_not():
    seconds = RooflineTime(memory=3, matmuls=2, collectives=4, operations=5)
    assert seconds.bound == 7
    assert seconds._replace(matmuls=9).bound == 13
    assert seconds.with_operations == 12


def test_the_best_is_memory_or_matmuls_and_no_exchange():
    assert lower_bound_seconds(LowerBound(158_000_000, 500_000, 225_000)) == pytest.approx(1e-6)
    assert lower_bound_seconds(LowerBound(316_000_000, 500_000, 225_000)) == pytest.approx(2e-6)
