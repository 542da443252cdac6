"""MoE layers with exact router scores: ties stay ties in any dtype and any order of a sum.

Logits are quarters up to 12 and biases eighths, both exact in bfloat16. Unequal sums of score and
bias are then at least 1.7e-6 apart: float32 ranks them as float64 does.
"""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.checkpoint.params import ExpertWeights
from tests.support.drawn import floats, seeds

WIDTH = 6
one_to_nine = st.integers(1, 9)


class Layer(NamedTuple):
    """The tensors of an MoE layer, in the order of `reference.moe_block`."""

    x_ND: Any
    position_N: Any
    w_router_ED: Any
    bias_E: Any
    w_gate_EFD: Any
    w_up_EFD: Any
    w_down_EDF: Any

    @property
    def experts(self) -> ExpertWeights:
        """The experts as kernels take them."""
        return ExpertWeights(*self[4:])


def random_layer(seed=0, *, N=5, E=8, F=3, dtype=np.float32, padding=0.0) -> Layer:
    """Return a layer of N tokens and E experts; a fraction `padding` of the tokens is padding."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape).astype(dtype)

    return Layer(
        x_ND=generator.integers(-2, 3, (N, WIDTH)).astype(dtype),
        position_N=np.where(generator.random(N) < padding, -1, np.arange(N)).astype(np.int32),
        w_router_ED=(generator.integers(-4, 5, (E, WIDTH)) / 4).astype(np.float32),
        bias_E=(generator.integers(-8, 9, E) / 8).astype(np.float32),
        w_gate_EFD=normal(E, F, WIDTH),
        w_up_EFD=normal(E, F, WIDTH),
        w_down_EDF=normal(E, WIDTH, F),
    )


@st.composite
def layers(draw, *, E=one_to_nine) -> Layer:
    """Draw a layer; none, some or all of its tokens are padding."""
    return random_layer(
        draw(seeds),
        N=draw(st.integers(1, 7)),
        E=draw(E),
        F=draw(st.integers(1, 5)),
        dtype=draw(floats),
        padding=draw(st.sampled_from([0.0, 0.3, 1.0])),
    )


def random_choices(generator, *, N: int, A: int, E: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (weight_NA, expert_NA): A of E experts for each of N tokens, weights summing to 1."""
    weight_NA = generator.random((N, A)).astype(np.float32) + np.float32(0.1)
    expert_NA = np.argsort(generator.random((N, E)), axis=1)[:, :A].astype(np.int32)
    return weight_NA / weight_NA.sum(axis=1, keepdims=True), expert_NA


def summed(x_ND, w_gate_FD, w_up_FD, w_down_DF) -> float:
    """Return the size of the terms that an expert adds up, to which its error is relative.

    Weights may be stacked.
    """
    x, gate, up, down = (
        np.abs(part.astype(np.float64)) for part in (x_ND, w_gate_FD, w_up_FD, w_down_DF)
    )
    hidden = (x @ np.swapaxes(gate, -1, -2)) * (x @ np.swapaxes(up, -1, -2))
    return float(np.max(hidden @ np.swapaxes(down, -1, -2), initial=0.0))
