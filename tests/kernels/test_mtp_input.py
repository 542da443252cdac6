"""Tests of mtp_input: against its reference and the trained module, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.mtp_input import mtp_input
from mimo_v2_flash.reference import mtp_input as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

NAMES = ("embedded_ND", "hidden_ND", "embedding_norm_D", "hidden_norm_D", "w_eh_DI")
EPSILON = 1e-5
drawn_inputs = st.integers(1, 6).flatmap(lambda D: tensors(*NAMES, D=st.just(D), I=st.just(2 * D)))


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


SHAPES = ((5, 4), (5, 4), (4,), (4,), (4, 8))
GOOD = {name: normal(*shape) for name, shape in zip(NAMES, SHAPES, strict=True)}


@every_kind
@given(drawn_inputs, st.sampled_from([1e-6, 1e-5, 1e-2]))
def test_it_is_its_oracle(on, drawn, epsilon):
    actual = on(mtp_input)(*drawn, epsilon=epsilon)
    assert actual.dtype == drawn[1].dtype
    assert_agrees(actual, oracle.mtp_input(*drawn, epsilon=epsilon))


def test_the_embedding_comes_first_and_each_part_has_its_norm():
    ones = np.ones(4, np.float32)
    first, second = np.eye(4, 8, dtype=np.float32), np.eye(4, 8, 4, dtype=np.float32)
    parts = GOOD["embedded_ND"], GOOD["hidden_ND"]
    embedded_ND = mtp_input(*parts, ones, 0 * ones, first, epsilon=EPSILON)
    hidden_ND = mtp_input(*parts, 0 * ones, 2 * ones, second, epsilon=EPSILON)
    for part_ND, x_ND, factor in zip(parts, (embedded_ND, hidden_ND), (1, 2), strict=True):
        rms_N1 = np.sqrt(np.mean(part_ND**2, axis=1, keepdims=True) + EPSILON)
        np.testing.assert_allclose(x_ND, factor * part_ND / rms_N1, rtol=1e-5)
    assert not mtp_input(*parts, ones, 0 * ones, second, epsilon=EPSILON).any()


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"mtp_input: .*\b{name}\b"):
        mtp_input(**(GOOD | {name: wrong}), epsilon=EPSILON)


def test_a_weight_of_one_input_for_each_channel_is_refused():
    with pytest.raises(ValueError, match=r"^mtp_input: w_eh_DI has 4 inputs, expected 8$"):
        mtp_input(**(GOOD | {"w_eh_DI": normal(4, 4)}), epsilon=EPSILON)
