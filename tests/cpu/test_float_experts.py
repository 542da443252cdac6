"""Experts of plain weights: bfloat16 and float32, whole lines and what is left of a row."""

import pytest

from mimo_v2_flash.layers.eager_experts import eager_experts
from tests.support.chosen_experts import assert_is_oracle, random_step


@pytest.mark.parametrize("kind", ["bfloat16", "float32"])
@pytest.mark.parametrize("widths", [(300, 257), (128, 128), (7, 391), (33, 31)])
def test_they_are_the_oracle(kind, widths):
    D, F = widths
    step = random_step(F, [kind] * 4, N=11, A=3, D=D, F=F)
    assert_is_oracle(eager_experts(*step), step)
