"""Flush-to-zero, which another library may set in any thread, changes no answer.

torch.set_flush_denormal(True), or a library that was built with -ffast-math, makes float32 numbers
below 2^-126 count as zero in its thread and in those that are started from it.
"""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.cpu import thread_pool
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.layers.eager_experts import eager_experts
from mimo_v2_flash.quantization import fp8
from mimo_v2_flash.quantization.fp8 import BlockScaled, MappedBlockScaled, quantize
from mimo_v2_flash.quantization.matmul import plain_matmul
from tests.support.chosen_experts import random_step
from tests.support.flushing import flush_to_zero
from tests.support.shipped import FOLDER
from tests.support.stored_weights import random_float8, random_rows

IMPORT = """
import torch, numpy as np
assert torch.set_flush_denormal(True)
from mimo_v2_flash.quantization import fp8
np.save({file!r}, np.stack([fp8.E4M3_VALUES, fp8.HALVED_CODE, fp8.ROUNDS]))
"""
SMALLEST_NORMAL = np.float32(2.0**-126)


def outlier_weight() -> BlockScaled:
    """Return a weight that is nearly all of subnormal codes."""
    w_OI = np.full((512, 1024), 1e-3, np.float32)
    w_OI[::128, ::128] = 100
    w = quantize(w_OI)
    assert np.mean(w.code & 0x78 == 0) > 0.99
    return w


@pytest.fixture(params=["pool before", "pool after"])
def pool_is_made(request):
    """Return a function that makes the thread pool, if it is made before flushing is set."""
    thread_pool._pool.cache_clear()
    yield lambda: request.param == "pool before" and thread_pool.parallel_for(lambda _: None, 8)
    thread_pool._pool.cache_clear()


@pytest.mark.parametrize("product", [ops.matmul, plain_matmul])
@pytest.mark.parametrize("rows", [1, 3, 9, 300, 600])
@pytest.mark.parametrize("kind", ["outliers", "every code"])
def test_products_of_fp8_stay_to_the_bit(monkeypatch, pool_is_made, kind, rows, product):
    generator = np.random.default_rng(rows)
    monkeypatch.setattr(thread_pool, "thread_count", lambda: 3)
    monkeypatch.setattr("mimo_v2_flash.cpu.matmul.MIN_SHARED_WORK", 0)
    w = outlier_weight() if kind == "outliers" else random_float8(generator, 391, 300, 77)
    x_NI = random_rows(generator, rows, w.shape[1])
    expected_NO = product(x_NI, w)
    pool_is_made()
    with flush_to_zero():
        np.testing.assert_array_equal(product(x_NI, w), expected_NO)


def test_experts_stay_to_the_bit():
    step = random_step(0, ["float8"] * 3, N=5, A=2)
    expected_ND = eager_experts(*step)
    with flush_to_zero():
        np.testing.assert_array_equal(eager_experts(*step), expected_ND)


def test_subnormal_scales_stay_where_the_weight_is_a_normal_number():
    bits_Y = np.array([1, 2, 1000, 0x7FFFFF, 0x800000], np.int32)  # 1e-45 to 2^-126
    code_OI = np.tile(np.arange(0x7F, dtype=np.uint8), (5, 1))
    scale_YX = bits_Y.view(np.float32)[:, None]
    w_OI = np.array(BlockScaled(code_OI, scale_YX, 1).dequantize(), np.float64)
    x_NI = np.float32(2.0**120) * random_rows(np.random.default_rng(0), 3, 0x7F)
    is_normal_OI = w_OI >= SMALLEST_NORMAL
    with flush_to_zero():
        weight = BlockScaled(code_OI, scale_YX, 1)
        flushed_OI, y_NO = weight.dequantize(), ops.matmul(x_NI, weight)
    np.testing.assert_array_equal(flushed_OI[is_normal_OI], w_OI[is_normal_OI])
    expected_NO = x_NI.astype(np.float64) @ np.where(is_normal_OI, w_OI, 0).T
    np.testing.assert_allclose(y_NO, expected_NO, atol=1e-3)
    assert np.abs(expected_NO).max() > 1


def test_a_mapped_weight_with_a_subnormal_scale_is_no_bad_weight():
    code_OI, scale_YX = np.ones((128, 128), np.uint8), np.full((1, 1), 1e-40, np.float32)
    with flush_to_zero():
        scale = MappedBlockScaled.map("w", code_OI, scale_YX).scale
    np.testing.assert_array_equal(scale.view(np.int32), scale_YX.view(np.int32))


@pytest.mark.parametrize("narrow", [ml_dtypes.bfloat16, np.float16])
def test_every_narrow_number_is_widened_and_rounded_as_before(narrow):
    largest = np.array(np.inf, narrow).view(np.uint16)
    every = np.array([b for b in range(1 << 16) if b & 0x7FFF <= largest], np.uint16).view(narrow)
    wide = every.astype(np.float32)
    with flush_to_zero():
        flushed_wide, flushed_narrow = every.astype(np.float32), wide.astype(narrow)
    np.testing.assert_array_equal(flushed_wide.view(np.int32), wide.view(np.int32))
    np.testing.assert_array_equal(
        flushed_narrow.view(np.uint16), wide.astype(narrow).view(np.uint16)
    )


def test_tables_that_are_made_under_it_are_the_same(tmp_path):
    pytest.importorskip("torch")
    code = IMPORT.format(file=str(tmp_path / "tables.npy"))
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    expected = np.stack([fp8.E4M3_VALUES, fp8.HALVED_CODE, fp8.ROUNDS])
    np.testing.assert_array_equal(np.load(tmp_path / "tables.npy"), expected)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_logits_and_cache_stay_to_the_bit(dtype):
    config = MiMoConfig.from_pretrained(FOLDER)
    model = MiMoV2FlashModel(load_weights(FOLDER, config), config)
    ids = np.random.default_rng(0).integers(3, 4000, (2, 40))
    positions = np.broadcast_to(np.arange(40), ids.shape)
    caches = [model.new_cache(2, 40, dtype) for _ in range(2)]
    expected = model.step(ids, positions, caches[0])
    with flush_to_zero():
        np.testing.assert_array_equal(model.step(ids, positions, caches[1]), expected)
    for layer, flushed in zip(caches[0].layers, caches[1].layers, strict=True):
        np.testing.assert_array_equal(flushed.k_ZKQ, layer.k_ZKQ)
        np.testing.assert_array_equal(flushed.v_ZKC, layer.v_ZKC)
