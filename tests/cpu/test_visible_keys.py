"""Keys that tokens see: listed by position from any order of slots, in blocks of positions."""

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cpu.visible_keys import block_end, is_readable, list_keys


@given(
    st.lists(st.integers(0, 60), unique=True, max_size=20),
    st.integers(0, 60),
    st.integers(1, 70),
    st.integers(1, 9),
)
def test_keys_are_listed_by_position(cached, start, window, tokens):
    position_S, position_T = (np.array(x, np.int32) for x in (cached, range(start, start + tokens)))
    slot_J, position_J = (np.empty(len(cached) + tokens, np.int64) for _ in range(2))
    prior, count = list_keys(position_S, position_T, window, slot_J, position_J)
    visible = sorted(p for p in cached if p < start and start - p < window)
    assert position_J[: prior + count].tolist() == [*visible, *position_T]
    assert [cached[slot] for slot in slot_J[:prior]] == visible
    assert slot_J[prior : prior + count].tolist() == list(range(tokens))


@given(st.lists(st.integers(0, 300), min_size=1, unique=True), st.sampled_from([8, 64]))
def test_blocks_are_of_equal_positions(positions, size):
    position_J, first, blocks = np.array(sorted(positions), np.int64), 0, []
    while first < len(positions):
        last = block_end(position_J, first, len(positions), size)
        (block,) = {int(position) // size for position in position_J[first:last]}
        blocks.append(block)
        first = last
    assert blocks == sorted(set(blocks))


def test_what_is_not_rows_side_by_side_is_not_readable():
    whole = np.zeros((2, 8, 3, 4), np.float32)
    assert is_readable(whole)
    assert is_readable(whole[:, :5])
    assert is_readable(whole[:1].astype(ml_dtypes.bfloat16))
    others = whole[:, ::2], whole[..., :2], whole[:, :, :1], np.swapaxes(whole, 1, 2)
    assert not any(map(is_readable, others))
