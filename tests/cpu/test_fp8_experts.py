"""Experts of FP8 blocks: scales and heights of each matrix, by its address."""

import numpy as np
import pytest

from mimo_v2_flash.layers.eager_experts import eager_experts
from tests.support.chosen_experts import assert_is_oracle, random_step
from tests.support.stored_weights import random_float8


@pytest.mark.parametrize("height", [1, 64, 77, 128])
@pytest.mark.parametrize("widths", [(300, 257), (128, 128), (40, 391)])
def test_every_block_has_its_scale(height, widths):
    D, F = widths
    step = random_step(height, ["float8"] * 3, N=9, A=2, D=D, F=F, height=height)
    assert_is_oracle(eager_experts(*step), step)


def test_matrices_of_an_expert_may_have_blocks_of_several_heights():
    generator = np.random.default_rng(0)
    step = random_step(0, ["float8"], N=3, A=1, D=300, F=257)
    gate, up, down = (
        (random_float8(generator, *shape, height),)
        for shape, height in (((257, 300), 64), ((257, 300), 128), ((300, 257), 3))
    )
    step = step._replace(experts=type(step.experts)(gate, up, down))
    assert_is_oracle(eager_experts(*step), step)
