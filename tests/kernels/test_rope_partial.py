"""Tests of rope_partial: against its references and transformers, and its properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kernels.rope_partial import rope_partial, rope_table
from mimo_v2_flash.reference import rope_partial as oracle
from tests.support.agreement import assert_agrees
from tests.support.drawn import FLOATS, tensors
from tests.support.kinds import every_kind
from tests.support.mistakes import mistakes

Q, ROTARY_DIM, LENGTH = 24, 8, 300
R = ROTARY_DIM // 2
FULL, SLIDING = 5_000_000.0, 10_000.0
TABLE = rope_table(length=LENGTH, rotary_dim=ROTARY_DIM, theta=SLIDING)
GOOD = {
    "x_NHQ": np.ones((6, 2, Q), np.float32),
    "position_N": np.zeros(6, np.int32),
    "cos_LR": TABLE[0],
    "sin_LR": TABLE[1],
}
heads = tensors("x_NHQ", N=st.just(1), Q=st.just(Q), dtypes=st.just(FLOATS[0])).map(
    lambda drawn: drawn[0]
)
position = st.integers(0, LENGTH - 1)
thetas = pytest.mark.parametrize("theta", [FULL, SLIDING])


def rotate(x_NHQ, position: int, table=TABLE):
    return rope_partial(x_NHQ, np.full(len(x_NHQ), position, np.int32), *table)


@every_kind
@given(
    tensors("x_NHQ", Q=st.sampled_from([8, 9, 24])),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([FULL, SLIDING]),
    st.data(),
)
def test_it_is_its_oracle(on, drawn, rotary_dim, theta, data):
    (x_NHQ,) = drawn
    N = len(x_NHQ)
    positions = st.lists(st.integers(-1, 40), min_size=N, max_size=N)
    position_N = np.array(data.draw(positions), np.int32)
    table = rope_table(length=41, rotary_dim=rotary_dim, theta=theta)
    actual = on(rope_partial)(x_NHQ, position_N, *table)
    assert actual.dtype == x_NHQ.dtype
    assert_agrees(actual, oracle.rope_partial(x_NHQ, position_N, *table))
    assert_agrees(actual, oracle.rope_at(x_NHQ, position_N, rotary_dim=rotary_dim, theta=theta))


@thetas
@pytest.mark.parametrize("rotary_dim", [2, 6, 64])
def test_the_table_is_its_oracle(theta, rotary_dim):
    kwargs = {"length": 50, "rotary_dim": rotary_dim, "theta": theta}
    for actual, expected in zip(rope_table(**kwargs), oracle.rope_table(**kwargs), strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)


@thetas
def test_angles_are_exact_at_the_end_of_the_context(theta):
    last = 262_143
    cos_LR, sin_LR = rope_table(length=last + 1, rotary_dim=ROTARY_DIM, theta=theta)
    x_NHQ = np.zeros((1, 1, ROTARY_DIM), np.float32)
    x_NHQ[..., :R] = 1
    rotated = oracle.rope_at(x_NHQ, np.array([last]), rotary_dim=ROTARY_DIM, theta=theta)
    np.testing.assert_allclose(
        np.concatenate([cos_LR[last], sin_LR[last]]), rotated[0, 0], rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("layer_type", ["full_attention", "sliding_attention"])
def test_it_is_transformers(layer_type):
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.mimo_v2_flash.modeling_mimo_v2_flash")
    config = modeling.MiMoV2FlashConfig()
    generator = np.random.default_rng(0)
    q_BTHQ, k_BTKQ = (
        generator.standard_normal((2, 4, heads, 192)).astype(np.float32) for heads in (3, 2)
    )
    position_BT = np.array([[0, 1, 2, 3], [126, 127, 128, 129]], np.int32)
    rotary = modeling.MiMoV2FlashRotaryEmbedding(config)
    cos_sin = rotary(torch.zeros(1), torch.tensor(position_BT).long(), layer_type)
    expected = modeling.apply_rotary_pos_emb(
        *(torch.tensor(x).transpose(1, 2) for x in (q_BTHQ, k_BTKQ)), *cos_sin
    )
    theta = config.rope_parameters[layer_type]["rope_theta"]
    table = rope_table(length=130, rotary_dim=64, theta=theta)
    for x_BTHQ, rotated in zip((q_BTHQ, k_BTKQ), expected, strict=True):
        actual_NHQ = rope_partial(x_BTHQ.reshape(8, -1, 192), position_BT.reshape(8), *table)
        assert_agrees(actual_NHQ.reshape(x_BTHQ.shape), rotated.transpose(1, 2).numpy())


@given(heads, position)
def test_every_pair_keeps_its_length(x_NHQ, position):
    def length(x):
        return np.hypot(x[..., :R], x[..., R:ROTARY_DIM])

    np.testing.assert_allclose(length(rotate(x_NHQ, position)), length(x_NHQ), rtol=1e-5)


@given(heads, position)
def test_the_other_channels_pass_untouched(x_NHQ, position):
    np.testing.assert_array_equal(
        rotate(x_NHQ, position)[..., ROTARY_DIM:], x_NHQ[..., ROTARY_DIM:]
    )


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_a_score_depends_on_the_distance_only(position, gap, shift):
    q_NHQ, k_NHQ = np.random.default_rng(position).standard_normal((2, 1, 1, Q)).astype("f4")

    def score(query, key):
        return float(np.sum(rotate(q_NHQ, query) * rotate(k_NHQ, key)))

    shifted = score(position + gap + shift, position + shift)
    assert score(position + gap, position) == pytest.approx(shifted, abs=1e-4)


@pytest.mark.parametrize("r", range(R))
def test_a_channel_is_paired_with_the_one_half_a_rotation_further(r):
    x_NHQ = np.zeros((1, 1, Q), np.float32)
    x_NHQ[..., r] = 1
    (rotated,) = np.nonzero(rotate(x_NHQ, 7)[0, 0])
    assert set(rotated) == {r, r + R}


def test_theta_matters():
    x_NHQ = GOOD["x_NHQ"]
    other = rope_table(length=LENGTH, rotary_dim=ROTARY_DIM, theta=FULL)
    assert np.max(np.abs(rotate(x_NHQ, 100) - rotate(x_NHQ, 100, other))) > 0.5


def test_padding_turns_as_position_0_which_does_not_turn():
    np.testing.assert_array_equal(rotate(GOOD["x_NHQ"], -1), GOOD["x_NHQ"])


@pytest.mark.parametrize(("name", "wrong"), mistakes(**GOOD))
def test_a_mistaken_argument_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"rope_partial: .*\b{name}\b"):
        rope_partial(**(GOOD | {name: wrong}))


def test_a_head_narrower_than_what_turns_is_refused():
    with pytest.raises(ValueError, match=r"x_NHQ has width 7, expected at least 2R = 8"):
        rope_partial(**(GOOD | {"x_NHQ": np.ones((6, 2, 7), np.float32)}))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("rotary_dim", 7), ("rotary_dim", 0), ("length", -1), ("theta", 0), ("theta", np.nan)],
)
def test_a_mistaken_number_is_named(name, wrong):
    with pytest.raises(ValueError, match=rf"rope_table: .*{name}"):
        rope_table(**({"length": 4, "rotary_dim": 4, "theta": SLIDING} | {name: wrong}))
