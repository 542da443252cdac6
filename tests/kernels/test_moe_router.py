"""Tests of moe_router: against its reference and transformers, the bias, ties, and dtypes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.moe_router import moe_router, router_scores
from mimo_v2_flash.reference import moe_router as oracle
from tests.support import transformers_experts as transformers
from tests.support.drawn import seeds
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes
from tests.support.routed import layers, random_layer

scalings = st.sampled_from([1.0, 2.5])
three_or_more = layers(E=st.integers(3, 9))
GOOD = {
    "x_ND": np.ones((2, 4), np.float32),
    "w_router_ED": np.ones((3, 4), np.float32),
    "bias_E": np.zeros(3, np.float32),
}


def router_args(layer) -> tuple:
    return layer.x_ND, layer.w_router_ED, layer.bias_E


def scatter(weight_NA, expert_NA, experts: int) -> np.ndarray:
    """Return `weight_NE`: each token's weight of every expert, 0 for those it did not choose."""
    weight_NE = np.zeros((len(expert_NA), experts))
    np.put_along_axis(weight_NE, np.asarray(expert_NA, np.int64), np.asarray(weight_NA), axis=1)
    return weight_NE


@every_kind
@given(layers(), st.integers(1, 9), scalings)
def test_it_is_its_oracle(on, layer, A, scaling):
    kwargs = {"experts_per_token": min(A, len(layer.bias_E)), "scaling": scaling}
    weight_NA, expert_NA = on(moe_router)(*router_args(layer), **kwargs)
    expected_NA, expected_expert_NA = oracle.moe_router(*router_args(layer), **kwargs)
    assert (weight_NA.dtype, expert_NA.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(expert_NA, expected_expert_NA)
    np.testing.assert_allclose(weight_NA, expected_NA, rtol=2e-6)


@pytest.mark.parametrize(("E", "A", "scaling"), [(256, 8, 1.0), (7, 3, 2.5), (4, 4, 1.0)])
def test_it_is_transformers(E, A, scaling):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    layer = random_layer(E=E)._replace(
        x_ND=generator.standard_normal((40, 6)).astype(np.float32),
        w_router_ED=generator.standard_normal((E, 6)).astype(np.float32),
        bias_E=generator.standard_normal(E).astype(np.float32),
    )
    kwargs = {"experts_per_token": A, "scaling": scaling}
    with torch.no_grad():
        _, *expected = transformers.router(layer, **kwargs)(torch.tensor(layer.x_ND))
    actual = moe_router(*router_args(layer), **kwargs)
    np.testing.assert_allclose(scatter(*actual, E), scatter(*expected, E), rtol=2e-6)


@every_kind
@given(layers())
def test_scores_are_those_that_weigh(on, layer):
    """If all experts are chosen, their weights are the scores over their sum."""
    score_NE = on(router_scores)(layer.x_ND, layer.w_router_ED)
    kwargs = {"experts_per_token": len(layer.bias_E), "scaling": 1.0}
    expected_NE = scatter(*oracle.moe_router(*router_args(layer), **kwargs), len(layer.bias_E))
    total_N1 = np.sum(score_NE, axis=1, keepdims=True)
    assert score_NE.dtype == np.float32
    np.testing.assert_allclose(score_NE / total_N1, expected_NE, rtol=2e-6)


@given(three_or_more, scalings)
def test_weights_sum_to_the_scaling(layer, scaling):
    weight_NA, _ = moe_router(*router_args(layer), experts_per_token=3, scaling=scaling)
    np.testing.assert_allclose(weight_NA.sum(axis=1), scaling, rtol=1e-6)


@given(three_or_more, st.sampled_from([0.5, 3.0]))
def test_the_bias_never_weighs(layer, favour):
    # A larger bias of the chosen experts alone keeps the choice, and must keep every bit.
    for n in range(len(layer.x_ND)):
        one = layer._replace(x_ND=layer.x_ND[n : n + 1])
        weight_1A, expert_1A = moe_router(*router_args(one), experts_per_token=3, scaling=1.0)
        one.bias_E[expert_1A[0]] += np.float32(favour)
        actual_1A, actual_expert_1A = moe_router(
            *router_args(one), experts_per_token=3, scaling=1.0
        )
        np.testing.assert_array_equal(actual_expert_1A, expert_1A)
        np.testing.assert_array_equal(actual_1A, weight_1A)


@given(three_or_more, st.data())
def test_the_bias_chooses(layer, data):
    favourite = data.draw(st.integers(0, len(layer.bias_E) - 1))
    layer.bias_E[favourite] = 5
    _, expert_NA = moe_router(*router_args(layer), experts_per_token=2, scaling=1.0)
    assert (expert_NA[:, 0] == favourite).all()


@given(seeds)
def test_permuted_experts_are_chosen_under_their_new_numbers(seed):
    layer = random_layer(seed)
    bias_E = layer.bias_E + np.arange(8, dtype=np.float32) / 64  # no ties
    order_E = np.random.default_rng(seed).permutation(8)
    kwargs = {"experts_per_token": 3, "scaling": 1.0}
    weight_NA, expert_NA = moe_router(layer.x_ND, layer.w_router_ED, bias_E, **kwargs)
    permuted = layer.w_router_ED[order_E], bias_E[order_E]
    permuted_weight_NA, permuted_expert_NA = moe_router(layer.x_ND, *permuted, **kwargs)
    np.testing.assert_array_equal(order_E[permuted_expert_NA], expert_NA)
    np.testing.assert_allclose(permuted_weight_NA, weight_NA, rtol=1e-6)


@every_kind
def test_of_equal_experts_the_lowest_is_chosen(on):
    x_ND, w_router_ED = np.zeros((2, 4), np.float32), np.ones((6, 4), np.float32)
    bias_E = np.array([0, 1, 0, 1, 0, 1], np.float32)
    for route in (on(moe_router), oracle.moe_router):
        weight_NA, expert_NA = route(x_ND, w_router_ED, bias_E, experts_per_token=4, scaling=1.0)
        np.testing.assert_array_equal(expert_NA, [[1, 3, 5, 0]] * 2)
        np.testing.assert_array_equal(weight_NA, 0.25)


@every_kind
@given(three_or_more)
def test_bfloat16_tokens_are_routed_in_float32(on, layer):
    kwargs = {"experts_per_token": 3, "scaling": 1.0}
    narrow = layer.x_ND.astype(ml_dtypes.bfloat16), *router_args(layer)[1:]
    wide = layer.x_ND.astype(np.float32), *router_args(layer)[1:]
    weight_NA, expert_NA = on(moe_router)(*narrow, **kwargs)
    expected_NA, expected_expert_NA = on(moe_router)(*wide, **kwargs)
    np.testing.assert_array_equal(expert_NA, expected_expert_NA)
    np.testing.assert_array_equal(weight_NA, expected_NA)


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scores_nearer_than_bfloat16_can_tell_are_ranked(on, dtype):
    w_router_ED = np.array([[1], [1 + 2**-12], [1 + 2**-11]], np.float32)
    _, expert_NA = on(moe_router)(
        np.ones((1, 1), dtype), w_router_ED, np.zeros(3, dtype), experts_per_token=3, scaling=1.0
    )
    assert expert_NA.tolist() == [[2, 1, 0]]


@every_kind
def test_a_token_that_no_expert_wants_weighs_nothing(on):
    x_ND = np.full((1, 4), -250, np.float32)
    weight_NA, expert_NA = on(moe_router)(
        **(GOOD | {"x_ND": x_ND}), experts_per_token=2, scaling=1.0
    )
    assert (weight_NA.tolist(), expert_NA.tolist()) == ([[0, 0]], [[0, 1]])


@every_kind
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("x_ND", np.nan), ("w_router_ED", np.nan)]
    + [("bias_E", wrong) for wrong in (np.nan, np.inf, -np.inf)],
)
def test_a_score_that_is_not_finite_is_no_choice_and_makes_the_weights_nan(on, name, wrong):
    """The bias alone never weighs: NaN in it would be a silent choice."""
    tensors = {key: tensor.copy() for key, tensor in GOOD.items()}
    tensors[name].flat[-1] = wrong
    weight_NA, expert_NA = on(moe_router)(**tensors, experts_per_token=2, scaling=1.0)
    is_bad_N = np.array([name != "x_ND", True])
    np.testing.assert_array_equal(np.isnan(weight_NA), np.broadcast_to(is_bad_N[:, None], (2, 2)))
    assert np.isin(expert_NA, range(3)).all()


@every_kind
@given(three_or_more)
def test_a_bad_token_changes_no_other_tokens_choice(on, layer):
    kwargs = {"experts_per_token": 3, "scaling": 2.5}
    expected_NA, expected_expert_NA = on(moe_router)(*router_args(layer), **kwargs)
    layer.x_ND[0, 0] = np.nan
    weight_NA, expert_NA = on(moe_router)(*router_args(layer), **kwargs)
    assert np.isnan(weight_NA[0]).all()
    np.testing.assert_array_equal(weight_NA[1:], expected_NA[1:])
    np.testing.assert_array_equal(expert_NA[1:], expected_expert_NA[1:])


@pytest.mark.parametrize("A", [-1, 0, 4])
def test_more_experts_than_there_are_are_refused(A):
    with pytest.raises(ValueError, match=rf"moe_router: experts_per_token {A} is not in 1\.\.3"):
        moe_router(**GOOD, experts_per_token=A, scaling=1.0)


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"moe_router: .*\b{name}\b"):
        moe_router(**(GOOD | {name: wrong}), experts_per_token=2, scaling=1.0)
