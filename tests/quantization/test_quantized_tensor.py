"""Tests of the protocol: what every format has without stating it, on two codes in a byte."""

from dataclasses import dataclass

import numpy as np
import pytest

from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.quantization import QuantizedTensor, StoredTensor
from mimo_v2_flash.quantization.matmul import matmul
from tests.support.stored_weights import assert_is_product, random_rows


@dataclass(frozen=True)
class Nibbles(QuantizedTensor):
    """Two 4-bit codes in a byte, and a scale for each row: stored and logical shapes differ."""

    pair: np.ndarray
    scale: np.ndarray

    format = "nibbles"
    tensors = (
        StoredTensor("pair", "packed", np.uint8),
        StoredTensor("scale", "packed_scale", np.float32),
    )

    @property
    def shape(self):
        *stack, rows, pairs = self.pair.shape
        return (*stack, rows, 2 * pairs)

    def dequantize(self, rows=slice(None)):
        pair = self.pair[..., rows, :]
        code = np.stack([pair & 0xF, pair >> 4], axis=-1).reshape(*pair.shape[:-1], -1)
        return (code.astype(np.float32) - 8) * self.scale[..., rows, :]

    def shard(self, axis, indices):
        raise NotImplementedError

    @classmethod
    def from_checkpoint(cls, where, shape, arrays):
        return cls(**arrays)


def random_nibbles(*stack: int) -> Nibbles:
    generator = np.random.default_rng(0)
    pair = generator.integers(0, 256, (*stack, 700, 400), np.uint8)
    return Nibbles(pair, generator.random((*stack, 700, 1), np.float32))


def test_sizes_are_bytes_and_shapes_are_logical():
    w = random_nibbles(3)
    assert (w.shape, len(w), w[1].shape) == ((3, 700, 800), 3, (700, 800))
    assert w.nbytes == nbytes(w) == 3 * 700 * (400 + 4)


def test_one_of_a_stack_and_a_part_of_it_are_views():
    w = random_nibbles(3)
    assert np.shares_memory(w[2].pair, w.pair)
    np.testing.assert_array_equal(w[2].dequantize(), w.dequantize()[2])
    np.testing.assert_array_equal(w[1:].dequantize(), w.dequantize()[1:])


def test_weights_are_stacked_and_taken_apart():
    w = random_nibbles(3)
    again = Nibbles.stack(list(w))
    np.testing.assert_array_equal(again.pair, w.pair)
    np.testing.assert_array_equal(again.scale, w.scale)


def test_a_pytree_has_its_arrays_by_field():
    w = random_nibbles()
    assert list(tree_arrays({"w": w})) == ["w.pair", "w.scale"]


def test_the_names_of_its_tensors_stand_for_the_weights():
    names = Nibbles.tensor_names("model.layers.3.mlp.up_proj.weight")
    assert names == {
        "pair": "model.layers.3.mlp.up_proj.packed",
        "scale": "model.layers.3.mlp.up_proj.packed_scale",
    }
    tensors = dict.fromkeys(names.values(), np.zeros(1)) | {"other": np.ones(1)}
    arrays = Nibbles.read(tensors, "model.layers.3.mlp.up_proj.weight")
    assert [field for field, array in arrays.items() if not array.any()] == ["pair", "scale"]


def test_a_tensor_of_another_dtype_is_refused_by_name():
    w = random_nibbles()
    arrays = {"pair": w.pair, "scale": w.scale.astype(np.float64)}
    message = r"^file: w: its packed_scale is float64, expected float32, as nibbles is stored"
    with pytest.raises(ValueError, match=message):
        Nibbles.check("file: w", w.shape, arrays)
    Nibbles.check("file: w", w.shape, arrays | {"scale": w.scale})


@pytest.mark.parametrize("N", [1, 600])
def test_a_format_without_loops_is_dequantised_tile_by_tile(monkeypatch, N):
    w, tiles = random_nibbles(), []
    x_NI = random_rows(np.random.default_rng(1), N, 800)
    dequantize = Nibbles.dequantize

    def spy(self, rows=slice(None)):
        tiles.append(rows)
        return dequantize(self, rows)

    monkeypatch.setattr(Nibbles, "dequantize", spy)
    y_NO = matmul(x_NI, w)
    assert len(tiles) == 2
    assert_is_product(y_NO, x_NI, w.dequantize())
    assert w.compiled is None
    assert w.to_device_layout() is w


def test_what_a_format_lacks_is_named():
    with pytest.raises(TypeError, match="nibbles has no product in traced programs: prepare"):
        random_nibbles().traced_product(None)
    with pytest.raises(TypeError, match="nibbles has no random weights"):
        Nibbles.random((2, 2), np.ones(256), np.asarray)
