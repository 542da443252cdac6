"""Tests of whether the bfloat16 unit is used: by what numba compiles for, and by a variable."""

import pytest

from mimo_v2_flash.cpu import bfloat16_unit
from mimo_v2_flash.cpu.bfloat16_unit import has_matrix_unit, has_vector_unit, uses_unit

VECTOR, MATRIX = {"+avx512f", "+avx512bf16"}, {"+avx512f", "+amx-tile", "+amx-bf16"}


@pytest.fixture(autouse=True)
def anew():
    uses_unit.cache_clear()
    yield
    uses_unit.cache_clear()


@pytest.mark.parametrize(
    ("features", "vector", "matrix"),
    [
        (VECTOR | {"-amx-bf16"}, True, False),
        (VECTOR | MATRIX, True, True),
        *((VECTOR - {feature}, False, False) for feature in VECTOR),
        *((MATRIX - {feature}, False, False) for feature in MATRIX),
        ({""}, False, False),
    ],
)
def test_there_is_a_unit_if_the_target_has_its_features(features, vector, matrix):
    assert (has_vector_unit(features), has_matrix_unit(features)) == (vector, matrix)


@pytest.mark.parametrize(("value", "used"), [("0", False), ("1", True)])
def test_the_variable_says_whether_it_is_used(monkeypatch, value, used):
    monkeypatch.setenv("MIMO_BFLOAT16_UNIT", value)
    assert uses_unit() is used


@pytest.mark.parametrize(
    ("vector", "matrix", "permitted", "used"),
    [(0, 0, 0, False), (1, 0, 0, True), (1, 1, 0, False), (1, 1, 1, True)],
)
def test_it_is_used_where_it_is_faster(monkeypatch, vector, matrix, permitted, used):
    monkeypatch.delenv("MIMO_BFLOAT16_UNIT", raising=False)
    answers = {"has_vector_unit": vector, "has_matrix_unit": matrix, "is_permitted": permitted}
    for name, answer in answers.items():
        monkeypatch.setattr(bfloat16_unit, name, lambda answer=answer: answer)
    assert uses_unit() is used


def test_another_value_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("MIMO_BFLOAT16_UNIT", "yes")
    with pytest.raises(
        ValueError, match="MIMO_BFLOAT16_UNIT is 'yes', expected an integer, 0 to 1"
    ):
        uses_unit()
