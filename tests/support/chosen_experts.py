"""Experts stored in any format, and steps that choose among them, with their float64 oracle."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from tests.support.agreement import assert_agrees
from tests.support.drawn import seeds
from tests.support.routed import random_choices, summed
from tests.support.stored_weights import HEIGHTS, KINDS, random_rows, random_weight, widened

WIDTHS = [1, 3, 64, 127, 128, 129, 200]


class ChosenExperts(NamedTuple):
    """The arguments of an `ExpertFn`, and the experts."""

    x_ND: np.ndarray
    weight_NA: np.ndarray
    expert_NA: np.ndarray
    experts: ExpertWeights


def random_experts(generator, kinds, *, D: int, F: int, height: int = 128) -> ExpertWeights:
    """Return an expert of each of `kinds`, of the size of the model's own: FP8 at one scale."""

    def weight(kind: str, outputs: int, inputs: int) -> Any:
        return random_weight(generator, kind, outputs, inputs, height)

    return ExpertWeights.of(
        (weight(kind, F, D), weight(kind, F, D), weight(kind, D, F)) for kind in kinds
    )


def random_step(
    seed, kinds, *, N: int, A: int, D: int = 128, F: int = 128, height: int = 128
) -> ChosenExperts:
    """Return N tokens that choose A of as many experts as there are `kinds`, and of one more."""
    generator = np.random.default_rng(seed)
    experts = random_experts(generator, kinds, D=D, F=F, height=height)
    weight_NA, expert_NA = random_choices(generator, N=N, A=A, E=len(kinds) + 1)
    x_ND = random_rows(generator, N, D) / np.float32(1 + 100 * (kinds[0] == "float8"))
    return ChosenExperts(x_ND, weight_NA, expert_NA, experts)


@st.composite
def chosen_experts(draw) -> ChosenExperts:
    """Draw a step of few tokens, with experts of one format and any shape."""
    E = draw(st.integers(1, 6))
    return random_step(
        draw(seeds),
        [draw(st.sampled_from(KINDS))] * E,
        N=draw(st.integers(1, 20)),
        A=draw(st.integers(1, E)),
        D=draw(st.sampled_from(WIDTHS)),
        F=draw(st.sampled_from(WIDTHS)),
        height=draw(st.sampled_from(HEIGHTS)),
    )


def assert_is_oracle(y_ND: np.ndarray, step: ChosenExperts) -> None:
    """Assert that `y_ND` is float64's, relative to the terms that are added up."""
    x_ND, weight_NA, expert_NA, experts = step
    expected_ND, wide_ND, scale = np.zeros(x_ND.shape), x_ND.astype(np.float64), 0.0
    for expert, record in enumerate(experts):
        gate_FD, up_FD, down_DF = map(widened, record)
        weight_N1 = np.sum(weight_NA * (expert_NA == expert), axis=1, keepdims=True)
        gate_NF = wide_ND @ gate_FD.T
        hidden_NF = gate_NF / (1 + np.exp(-np.maximum(gate_NF, -700))) * (wide_ND @ up_FD.T)
        expected_ND += weight_N1 * (hidden_NF @ down_DF.T)
        scale = max(scale, summed(x_ND, gate_FD, up_FD, down_DF))
    assert y_ND.dtype == np.float32
    assert_agrees(y_ND, expected_ND, scale=scale)
