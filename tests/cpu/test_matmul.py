"""Tests of the compiled matmul: the product of a stored weight is that of the decoded weight."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.cpu import matmul, thread_pool
from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.cpu.floats import compiled_array
from mimo_v2_flash.cpu.matmul import MAX_REGISTER_ROWS, batch_product
from mimo_v2_flash.cpu.panel_product import SCRATCH
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.matmul import plain_matmul
from tests.support.counting import counted
from tests.support.drawn import seeds
from tests.support.stored_weights import (
    FINITE_CODES,
    KINDS,
    NAN_CODES,
    assert_is_product,
    random_float8,
    random_rows,
    random_weight,
    stored_weights,
)

every_stored = pytest.mark.parametrize("kind", KINDS)
few_and_many = pytest.mark.parametrize("N", [1, 2, MAX_REGISTER_ROWS, MAX_REGISTER_ROWS + 1, 300])


def product(x_NI, w) -> np.ndarray:
    """Return the compiled product with a stored weight, however small it is."""
    weight = w.compiled if isinstance(w, BlockScaled) else compiled_array(w)
    return matmul.product(x_NI, weight, w.shape[0])


def random_case(seed: int, kind: str, N: int = 3, outputs: int = 300, inputs: int = 260):
    generator = np.random.default_rng(seed)
    w = random_weight(generator, kind, outputs, inputs)
    return random_rows(generator, N, inputs), w


@settings(max_examples=150)
@given(stored_weights(), st.integers(1, 300), st.sampled_from([0, MAX_REGISTER_ROWS]), seeds)
@example(random_case(0, "float8")[1], MAX_REGISTER_ROWS + 1, MAX_REGISTER_ROWS, 0)
def test_a_product_is_its_oracle(w, N, few, seed):
    x_NI = random_rows(np.random.default_rng(seed), N, w.shape[1])
    with pytest.MonkeyPatch.context() as patch:  # both paths take every shape
        patch.setattr(matmul, "MAX_REGISTER_ROWS", few)
        y_NO = product(x_NI, w)
    assert_is_product(y_NO, x_NI, w)
    allowed = 1e-6 * np.max(np.abs(y_NO)) * w.shape[1]
    np.testing.assert_allclose(y_NO, plain_matmul(x_NI, w), rtol=0, atol=allowed)


@pytest.mark.parametrize("N", [1, MAX_REGISTER_ROWS, 127])
@pytest.mark.parametrize("height", [64, 77, 128])
def test_every_code_is_exact(N, height):
    generator = np.random.default_rng(height)
    code_OI = np.stack([generator.permutation(FINITE_CODES) for _ in range(260)])
    scale_YX = np.exp(generator.uniform(-30, 5, (-(-260 // height), 2))).astype(np.float32)
    w = BlockScaled(code_OI, scale_YX, height)
    one_hot, decoded_OI = np.eye(254, dtype=np.float32), w.dequantize()
    for start in range(0, 254, N):
        y_NO = product(one_hot[start : start + N], w)
        np.testing.assert_array_equal(y_NO, decoded_OI.T[start : start + N])


@few_and_many
@pytest.mark.parametrize(("scale", "size"), [(1000.0, 1.0), (1e-3, 3e6), (1e-3, 1e-20)])
def test_neither_large_nor_small_numbers_are_lost_on_the_way(N, scale, size):
    w = random_float8(np.random.default_rng(0), 130, 140)
    w = BlockScaled(w.code, np.full_like(w.scale, scale))
    x_NI = random_rows(np.random.default_rng(1), N, 140) * np.float32(size)
    assert_is_product(product(x_NI, w), x_NI, w)


@few_and_many
@given(seed=seeds)
@settings(max_examples=5)
def test_a_nan_code_spoils_its_own_output_and_no_other(N, seed):
    generator = np.random.default_rng(seed)
    whole = random_float8(generator, 270, 140, 64)
    code_OI, spoilt = whole.code.copy(), generator.choice(270, 7, replace=False)
    code_OI[spoilt, generator.integers(0, 140, 7)] = generator.choice(NAN_CODES, 7)
    x_NI = random_rows(generator, N, 140)
    y_NO = product(x_NI, BlockScaled(code_OI, whole.scale, 64))
    assert np.isnan(y_NO[:, spoilt]).all()
    intact = np.setdiff1d(np.arange(270), spoilt)
    np.testing.assert_array_equal(y_NO[:, intact], product(x_NI, whole)[:, intact])


@few_and_many
@every_stored
def test_a_weight_may_be_mapped_or_read_only(tmp_path, kind, N):
    x_NI, w = random_case(0, kind, N)
    whole, array = product(x_NI, w), w.code if kind == "float8" else w
    array.tofile(tmp_path / "w")
    mapped = np.memmap(tmp_path / "w", array.dtype, "r", shape=array.shape)
    locked = array.copy()
    locked.flags.writeable = False
    for copy in (mapped, locked):
        stored = BlockScaled(copy, w.scale) if kind == "float8" else copy
        np.testing.assert_array_equal(product(x_NI, stored), whole)


def misaligned(array: np.ndarray) -> np.ndarray:
    """Return a read-only copy that begins one byte beyond its alignment, as in a message."""
    copy = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    assert not copy.flags.aligned
    return copy


@every_stored
@pytest.mark.parametrize("N", [5, 300])
def test_operands_may_lie_anywhere(kind, N):
    generator = np.random.default_rng(N)
    w, x_NI = random_weight(generator, kind, 391, 128, 64), random_rows(generator, N, 128)
    expected = ops.matmul(x_NI, w)
    np.testing.assert_array_equal(ops.matmul(misaligned(x_NI), w), expected)
    if kind == "float8":
        w = BlockScaled(w.code, misaligned(w.scale), w.block_height)
        np.testing.assert_array_equal(ops.matmul(x_NI, w), expected)


@every_stored
def test_rows_may_lie_apart(kind):
    x_NI, w = random_case(0, kind, 6)
    apart = np.repeat(np.repeat(x_NI, 2, axis=0), 3, axis=1)
    np.testing.assert_array_equal(product(apart[::2, ::3], w), product(x_NI, w))
    np.testing.assert_array_equal(product(x_NI[::-1], w), product(x_NI, w)[::-1])
    np.testing.assert_array_equal(product(np.asfortranarray(x_NI), w), product(x_NI, w))


@given(st.sampled_from([(1,), (5,), (2, 3)]), st.integers(1, 40), seeds)
def test_equal_batch_axes_are_multiplied_one_by_one(batch, N, seed):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((*batch, N, 17), np.float32)
    w = np.swapaxes(generator.standard_normal((*batch, 17, 23), np.float32), -1, -2)
    assert_is_product(batch_product(x, w), x, w)


@every_stored
def test_no_rows_have_no_answers(kind):
    x_NI, w = random_case(0, kind, N=0)
    assert ops.matmul(x_NI, w).shape == (0, 300)


@few_and_many
@every_stored
def test_threads_change_nothing(monkeypatch, kind, N):
    x_NI, w = random_case(0, kind, N, outputs=1100)
    monkeypatch.setattr(matmul, "MIN_SHARED_WORK", 0)
    products = []
    for count in (1, 2, 5):
        thread_pool._pool.cache_clear()
        monkeypatch.setattr(thread_pool, "thread_count", lambda count=count: count)
        with single_threaded_blas:  # as in a step, whatever the number of the pool's threads
            products.append(product(x_NI, w))
    thread_pool._pool.cache_clear()
    assert_is_product(products[0], x_NI, w)
    for y_NO in products[1:]:
        np.testing.assert_array_equal(y_NO, products[0])


@every_stored
def test_many_rows_are_multiplied_by_panels(monkeypatch, kind):
    by_panels, fill_by_panels = [], matmul._fill_by_panels

    def spy(x_NI, *args):
        by_panels.append(len(x_NI))
        return fill_by_panels(x_NI, *args)

    monkeypatch.setattr(matmul, "_fill_by_panels", spy)
    for N in (MAX_REGISTER_ROWS, MAX_REGISTER_ROWS + 1):
        x_NI, w = random_case(0, kind, N, outputs=30)
        assert_is_product(product(x_NI, w), x_NI, w)
    assert by_panels == [MAX_REGISTER_ROWS + 1]


@every_stored
@given(st.integers(MAX_REGISTER_ROWS + 1, 60), st.integers(1, 60), seeds)
@settings(max_examples=20)
def test_a_row_has_the_same_bits_beside_any_others(kind, N, others, seed):
    x_NI, w = random_case(seed, kind, N, outputs=70, inputs=1200)
    more_NI = random_rows(np.random.default_rng(seed + 1), others, 1200)
    beside = product(np.concatenate([more_NI, x_NI]), w)[others:]
    np.testing.assert_array_equal(beside, product(x_NI, w))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_in_x_stays_in_its_row(bad):
    x_NI, w = random_case(0, "float32", MAX_REGISTER_ROWS + 1)
    w, expected_NO = np.abs(w), product(x_NI, np.abs(w))
    x_NI[13, 7], expected_NO[13] = bad, bad
    np.testing.assert_array_equal(product(x_NI, w), expected_NO)


@every_stored
def test_little_work_is_not_shared(monkeypatch, kind):
    """Waking threads takes longer than multiplying a small weight."""
    x_NI, w = random_case(0, kind)
    expected_NO = product(x_NI, w)
    monkeypatch.setattr(thread_pool, "thread_count", lambda: 5)
    monkeypatch.setattr(matmul, "parallel_for", None)  # whoever calls it, fails
    np.testing.assert_array_equal(product(x_NI, w), expected_NO)
    monkeypatch.setattr(matmul, "MIN_SHARED_WORK", 0)
    with pytest.raises(TypeError):
        product(x_NI, w)


def test_many_callers_get_their_own_answers():
    cases = [random_case(seed, kind, N) for seed, kind in enumerate(KINDS) for N in (1, 40)]
    expected = [product(*case) for case in cases]

    def program(rank: int) -> None:
        for call in range(24):
            index = (call + rank) % len(cases)
            np.testing.assert_array_equal(product(*cases[index]), expected[index])

    ThreadGroup(4).run(program)


@few_and_many
@pytest.mark.parametrize("kind", ["float8", "bfloat16"])
def test_a_weight_is_never_held_in_float32(kind, N):
    x_NI, w = random_case(0, kind, N, outputs=6000, inputs=640)
    with counted() as cost:
        y_NO = ops.matmul(x_NI, w)
    panels = (thread_pool.thread_count() + 1) * SCRATCH * 4
    assert cost.peak_bytes < y_NO.nbytes + 2 * x_NI.nbytes + panels + 100_000
    assert panels < 6000 * 640 * 4 / 2
