"""Tests of whether the bfloat16 unit is used: by what numba compiles for, and by a variable."""

import pytest

from mimo_v2_flash.cpu import bfloat16_unit
from mimo_v2_flash.cpu.bfloat16_unit import has_unit, is_faster, uses_unit


@pytest.fixture(autouse=True)
def anew():
    uses_unit.cache_clear()
    yield
    uses_unit.cache_clear()


@pytest.mark.parametrize(
    ("features", "unit", "faster"),
    [
        ({"+avx512f", "+avx512bf16", "-amx-bf16"}, True, True),
        ({"+avx512f", "+avx512bf16", "+amx-bf16"}, True, False),
        ({"+avx512f", "-avx512bf16"}, False, False),
        ({"-avx512f", "+avx512bf16"}, False, False),
        ({""}, False, False),
    ],
)
def test_there_is_a_unit_if_the_target_has_its_features(features, unit, faster):
    assert (has_unit(features), is_faster(features)) == (unit, faster)


@pytest.mark.parametrize(("value", "used"), [("0", False), ("1", True)])
def test_the_variable_says_whether_it_is_used(monkeypatch, value, used):
    monkeypatch.setenv("MIMO_BFLOAT16_UNIT", value)
    assert uses_unit() is used


def test_it_is_used_where_it_is_faster(monkeypatch):
    monkeypatch.delenv("MIMO_BFLOAT16_UNIT", raising=False)
    assert uses_unit() is is_faster(bfloat16_unit.FEATURES)


def test_another_value_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("MIMO_BFLOAT16_UNIT", "yes")
    with pytest.raises(
        ValueError, match="MIMO_BFLOAT16_UNIT is 'yes', expected an integer, 0 to 1"
    ):
        uses_unit()
