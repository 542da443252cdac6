"""Tests of lm_head: against its reference and torch's linear layer, in float32."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.reference import lm_head as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

GOOD = {"x_ND": np.ones((2, 4), np.float32), "w_VD": np.ones((3, 4), np.float32)}


@every_kind
@given(tensors("x_ND", "w_VD"))
def test_it_is_its_oracle(on, drawn):
    actual = on(lm_head)(*drawn)
    assert actual.dtype == np.float32
    summed = np.max(np.abs(drawn[0]).astype(np.float64) @ np.abs(drawn[1]).astype(np.float64).T)
    assert_agrees(actual, oracle.lm_head(*drawn), scale=summed)


def test_it_is_torch():
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    x_ND, w_VD = (generator.standard_normal((n, 64)).astype(np.float32) for n in (5, 9))
    expected = torch.nn.functional.linear(torch.tensor(x_ND), torch.tensor(w_VD))
    assert_agrees(lm_head(x_ND, w_VD), expected.numpy())


def test_a_wide_bfloat16_sum_does_not_stall():
    # A bfloat16 sum of ones stops growing at 256.
    x_ND = np.ones((1, 4095), ml_dtypes.bfloat16)
    assert lm_head(x_ND, x_ND).item() == 4095


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"lm_head: .*\b{name}\b"):
        lm_head(**(GOOD | {name: wrong}))
