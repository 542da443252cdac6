"""Rows of a weight as a format's packer writes them, read back by NumPy.

@given(packed_parts(), seeds)
def test_packed_rows_are_the_decoded_rows(part, seed): ...
"""

from collections.abc import Callable
from math import lcm
from typing import NamedTuple

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash.cpu.panel import BLOCK, PANEL, VECTOR
from mimo_v2_flash.cpu.tile import LANES, WORD
from tests.support.stored_blocks import columns_of, compiled_columns, random_blocks
from tests.support.stored_weights import INPUTS, OUTPUTS

UNTOUCHED = np.float32(-77)


class PackedPart(NamedTuple):
    """Rows from o on, as many as a vector has lanes, and columns `start` to `stop` of a weight."""

    outputs: int
    inputs: int
    o: int
    start: int
    stop: int


@st.composite
def packed_parts(draw) -> PackedPart:
    """Draw a part whose columns begin with a block."""
    outputs, inputs = draw(st.sampled_from(OUTPUTS)), draw(st.sampled_from(INPUTS))
    start = BLOCK * draw(st.integers(0, (inputs - 1) // BLOCK))
    stop = min(start + BLOCK * draw(st.integers(1, 3)), inputs)
    return PackedPart(outputs, inputs, draw(st.integers(0, outputs - 1)), start, stop)


def assert_packed(
    part: PackedPart,
    packer: Callable,
    address: tuple,
    w_OI: np.ndarray,
    per_word: int = 1,
    atol: float = 0.0,
) -> None:
    """Assert that `packer` writes the part of `w_OI`, to `atol`, as its panel, and nothing beyond.

    A word of the panel holds one float32, or two bfloat16. A row that holds NaN need not be NaN
    but in one column. Beyond the end of rows are zeros, up to a whole vector of the stored weight.
    """
    *shape, o, start, stop = part
    blocks, lane = -(-(stop - start) // BLOCK), 3 % (PANEL // LANES) * LANES
    height = BLOCK // per_word + 1
    room_W = np.full((blocks + 1) * height * PANEL + VECTOR, UNTOUCHED)
    panel_W = room_W[-room_W.ctypes.data % VECTOR // WORD :][: room_W.size - VECTOR]
    packer(*address, *shape, o, start, stop, panel_W.ctypes.data + lane * WORD)
    panel_XIO = panel_W.reshape(blocks + 1, height, PANEL)
    packed_XIO = panel_XIO[:blocks, :, lane : lane + LANES]
    column_J = np.arange(stop - start)
    scale_JO, value_XIO = packed_XIO[column_J // BLOCK, 0], packed_XIO[:, 1:]
    if per_word == 2:
        half_XIO2 = np.ascontiguousarray(value_XIO)[..., None].view(ml_dtypes.bfloat16)
        value_XIO = half_XIO2.swapaxes(2, 3).reshape(blocks, BLOCK, LANES).astype(np.float32)
    with np.errstate(invalid="ignore"):  # of NaN that signal
        value_JO = value_XIO[column_J // BLOCK, column_J % BLOCK] * scale_JO
        expected_OJ = w_OI[np.minimum(np.arange(o, o + LANES), len(w_OI) - 1), start:stop]
        expected_JO = expected_OJ.T.astype(np.float32)
    is_nan_O = np.isnan(expected_JO).any(axis=0)
    np.testing.assert_array_equal(np.isnan(value_JO).any(axis=0), is_nan_O)
    np.testing.assert_allclose(value_JO[:, ~is_nan_O], expected_JO[:, ~is_nan_O], rtol=0, atol=atol)
    panel_XIO[:blocks, :, lane : lane + LANES] = UNTOUCHED
    np.testing.assert_array_equal(panel_W, UNTOUCHED)


def assert_blocks_are_packed(name: str, packer: Callable[..., None], seed: int) -> None:
    """Assert that any bytes are packed as NumPy decodes them, at any row and border of blocks."""
    generator, columns = np.random.default_rng(seed), compiled_columns(name)
    unit = lcm(columns, BLOCK)
    outputs, blocks = map(int, generator.integers(1, (40, 4 * unit // columns)))
    w = random_blocks(generator, name, outputs, blocks * columns // columns_of(name))
    start = unit * int(generator.integers(0, -(-blocks * columns // unit)))
    stop = int(generator.integers(start // columns, blocks)) * columns + columns
    part = PackedPart(*w.shape, int(generator.integers(0, outputs)), start, stop)
    atol = 1e-7 * float(np.max(np.abs(w.dequantize()))) if name == "q4_k" else 0.0  # fused there
    assert_packed(part, packer, w.compiled.address, w.dequantize(), atol=atol)
