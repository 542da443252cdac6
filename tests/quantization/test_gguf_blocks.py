"""Weights in ggml's block formats: as the package gguf dequantises them, row by row."""

import gguf
import numpy as np
import pytest

from mimo_v2_flash.quantization.gguf_blocks import GGUFBlocks
from mimo_v2_flash.quantization.matmul import matmul

KINDS = ("Q5_0", "Q4_1", "Q8_0")


def weight(kind: str, shape=(6, 96)) -> GGUFBlocks:
    values = np.random.default_rng(0).standard_normal(shape, np.float32)
    return GGUFBlocks(gguf.quantize(values, gguf.GGMLQuantizationType[kind]), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_with_the_dequantised_weight(kind):
    w = weight(kind)
    dequantized = gguf.dequantize(w.blocks, gguf.GGMLQuantizationType[kind])
    assert w.shape == (6, 96)
    assert np.array_equal(w.dequantize(slice(2, 4)), dequantized[2:4])
    for rows in (1, 3, 40):
        x = np.random.default_rng(rows).standard_normal((rows, 96), np.float32)
        assert np.allclose(matmul(x, w), x @ dequantized.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_slices_at_the_borders_of_blocks(kind):
    w = weight(kind)
    assert np.array_equal(w.shard(0, range(1, 4)).dequantize(), w.dequantize()[1:4])
    assert np.array_equal(w.shard(1, range(32, 96)).dequantize(), w.dequantize()[:, 32:])
    with pytest.raises(ValueError, match="multiples of 32"):
        w.shard(1, range(16, 96))


def test_safetensors_files_have_none():
    with pytest.raises(TypeError, match="GGUF files alone"):
        GGUFBlocks.from_checkpoint("x: w", (1, 32), {})
