"""Tests of the matmul with stored weights: by compiled loops or NumPy, always right."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimo_v2_flash.quantization import matmul as stored
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.matmul import matmul, plain_matmul
from tests.support.drawn import seeds
from tests.support.machine import needs_numba
from tests.support.stored_weights import (
    KINDS,
    assert_is_product,
    random_float8,
    random_rows,
    random_weight,
    stored_weights,
)

every_stored = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def by_numpy(monkeypatch) -> list[tuple[int, ...]]:
    """Return the shapes of the weights that are left to NumPy from now on."""
    shapes: list[tuple[int, ...]] = []

    def spy(x, w):
        shapes.append(tuple(w.shape))
        return plain_matmul(x, w)

    monkeypatch.setattr(stored, "plain_matmul", spy)
    return shapes


def random_case(kind: str, outputs: int = 300, inputs: int = 260):
    generator = np.random.default_rng(0)
    w = random_weight(generator, kind, outputs, inputs)
    return random_rows(generator, 3, inputs), w


@given(stored_weights(), st.integers(1, 300), seeds)
def test_both_ways_are_the_product(w, N, seed):
    x_NI = random_rows(np.random.default_rng(seed), N, w.shape[1])
    assert_is_product(matmul(x_NI, w), x_NI, w)
    assert_is_product(plain_matmul(x_NI, w), x_NI, w)


@needs_numba
@every_stored
def test_a_large_weight_is_multiplied_by_compiled_loops(by_numpy, kind):
    matmul(*random_case(kind))
    assert by_numpy == []


@needs_numba
@pytest.mark.parametrize(("kind", "left"), [("float8", 0), ("bfloat16", 1), ("float32", 1)])
def test_a_small_array_is_left_to_numpy_and_codes_never_are(by_numpy, monkeypatch, kind, left):
    x_NI, w = random_case(kind)
    monkeypatch.setattr(stored, "MIN_ELEMENTS", w.shape[0] * w.shape[1] + 1)
    matmul(x_NI, w)
    assert len(by_numpy) == left
    monkeypatch.setattr(stored, "MIN_ELEMENTS", w.shape[0] * w.shape[1])
    matmul(x_NI, w)
    assert len(by_numpy) == left


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_the_loops_cannot_read_is_left_to_numpy(by_numpy, dtype):
    x_NI, w_OI = random_case("float32")
    w_OI = w_OI.astype(dtype)
    unaligned = np.empty(w_OI.nbytes + 1, np.uint8)[1:].view(dtype).reshape(w_OI.shape)
    unaligned[:] = w_OI
    for w in (unaligned, np.asfortranarray(w_OI), np.repeat(w_OI, 2, axis=0)[::2]):
        assert_is_product(matmul(x_NI, w), x_NI, w_OI)
    assert len(by_numpy) == 3


@given(st.integers(-149, 108), st.integers(-149, 108), st.integers(-60, 60), seeds)
@example(68, 68, 0, 0)  # a power of two too large by 2^60 is infinite
@example(-140, -140, 60, 0)
def test_any_scale_gives_the_product(first, second, exponent, seed):
    generator = np.random.default_rng(seed)
    w = random_float8(generator, 300, 260)
    w.scale[:] = np.ldexp(np.float32(1), generator.choice([first, second], w.scale.shape))
    for rows in (1, 3, 100):
        x_NI = random_rows(generator, rows, 260)
        x_NI *= np.float32(2.0 ** min(exponent, 108 - max(first, second)))
        assert_is_product(matmul(x_NI, w), x_NI, w, atol=260 * 2.0**-149)


def test_codes_that_lie_apart_are_left_to_numpy(by_numpy):
    x_NI, w = random_case("float8")
    apart = BlockScaled(np.repeat(w.code, 2, axis=1)[:, ::2], w.scale)
    assert_is_product(matmul(x_NI, apart), x_NI, w)
    assert by_numpy == [w.shape]


@needs_numba
@pytest.mark.parametrize(
    ("of_x", "of_w", "left"),
    [((2,), (2,), 0), ((2, 3), (2, 3), 0), ((2,), (1,), 1), ((2, 3), (3,), 1), ((2,), (), 1)],
)
def test_equal_batch_axes_are_shared_by_threads_and_others_left_to_numpy(
    by_numpy, monkeypatch, of_x, of_w, left
):
    monkeypatch.setattr(stored, "MIN_ELEMENTS", 1)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((*of_x, 4, 5), np.float32)
    w = generator.standard_normal((*of_w, 6, 5), np.float32)
    assert_is_product(matmul(x, w), x, w)
    assert len(by_numpy) == left


@every_stored
@pytest.mark.parametrize(("N", "outputs", "inputs"), [(0, 300, 260), (2, 300, 0), (2, 0, 260)])
def test_nothing_times_something_is_zeros(kind, N, outputs, inputs):
    if kind == "float8":
        grid = -(-outputs // 128), -(-inputs // 128)
        w = BlockScaled(np.zeros((outputs, inputs), np.uint8), np.ones(grid, np.float32))
    else:
        w = np.zeros((outputs, inputs), {"bfloat16": ml_dtypes.bfloat16}.get(kind, np.float32))
    np.testing.assert_array_equal(
        matmul(np.ones((N, inputs), np.float32), w), np.zeros((N, outputs), np.float32)
    )
