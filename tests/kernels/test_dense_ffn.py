"""Tests of dense_ffn: against its reference and transformers, blocks, and memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.dense_ffn import dense_ffn
from mimo_v2_flash.reference import dense_ffn as oracle
from tests.support import transformers_experts as transformers
from tests.support.agreement import assert_agrees
from tests.support.counting import counted
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes
from tests.support.routed import random_layer, summed

GOOD = {
    "x_ND": np.ones((2, 4), np.float32),
    "w_gate_FD": np.ones((3, 4), np.float32),
    "w_up_FD": np.ones((3, 4), np.float32),
    "w_down_DF": np.ones((4, 3), np.float32),
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@every_kind
@given(tensors("x_ND", "w_gate_FD", "w_up_FD", "w_down_DF"), st.integers(1, 7))
def test_it_is_its_oracle(on, drawn, token_block):
    x_ND, *weights = drawn
    y_ND = on(dense_ffn)(*drawn, token_block=token_block)
    assert y_ND.dtype == np.float32
    expected_ND = oracle.dense_ffn(*drawn, token_block=token_block)
    assert_agrees(y_ND.astype(x_ND.dtype), expected_ND, scale=summed(x_ND, *weights))


@pytest.mark.parametrize("token_block", [4, 100])
def test_it_is_transformers(token_block):
    torch = pytest.importorskip("torch")
    layer = random_layer(N=9, E=1, F=5)
    weights = [w[0] for w in layer[4:]]
    mlp = transformers.modeling().MiMoV2FlashMLP(transformers.config(layer))
    for linear, w in zip((mlp.gate_proj, mlp.up_proj, mlp.down_proj), weights, strict=True):
        linear.weight.data = torch.tensor(w)
    with torch.no_grad():
        expected_ND = mlp(torch.tensor(layer.x_ND)).numpy()
    y_ND = dense_ffn(layer.x_ND, *weights, token_block=token_block)
    assert_agrees(y_ND, expected_ND, scale=summed(layer.x_ND, *weights))


def test_the_hidden_width_is_never_held_for_all_tokens():
    N, D, F = 512, 4, 256
    x_ND, w_FD, w_DF = normal(N, D), normal(F, D), normal(D, F)
    for token_block, max_elements in ((16, N * F), (N, 8 * N * F)):
        with counted() as cost:
            dense_ffn(x_ND, w_FD, w_FD, w_DF, token_block=token_block)
        assert cost.multiply_adds == 3 * N * D * F
        assert cost.peak_bytes < 4 * max_elements


@pytest.mark.parametrize("token_block", [0, -1])
def test_blocks_of_nothing_are_refused(token_block):
    with pytest.raises(ValueError, match=f"dense_ffn: token_block {token_block}"):
        dense_ffn(**GOOD, token_block=token_block)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"dense_ffn: .*\b{name}\b"):
        dense_ffn(**(GOOD | {name: wrong}), token_block=2)
