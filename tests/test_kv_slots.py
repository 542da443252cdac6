"""kv_slots: every token has its row, the trash row, or one beside the rings."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.kv_slots import slot_mapping
from tests.support.steps import positions


def expected_row(position: int, last: int, sequence: int, sequences: int, slots: int) -> int:
    """Return one token's cache row: a slot for the last tokens of a step, else the trash row."""
    if position < 0 or position <= last - slots:
        return sequences * slots
    return sequence * slots + position % slots


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), min_size=1), st.integers(1, 12))
def test_every_token_has_its_row(starts_and_counts, slots):
    starts, counts = zip(*starts_and_counts, strict=True)
    position_BT, trash = positions(starts, counts, 9), len(starts) * slots
    slot_mapping_N = slot_mapping(
        position_BT.ravel(),
        np.repeat(np.arange(len(starts)), 9),
        np.repeat(np.add(starts, counts), 9),
        slots=slots,
        trash=trash,
    )
    assert slot_mapping_N.dtype == np.int32
    assert slot_mapping_N.tolist() == [
        expected_row(position, max(row), index, len(starts), slots)
        for index, row in enumerate(position_BT.tolist())
        for position in row
    ]
    written = slot_mapping_N[slot_mapping_N < trash]
    assert len(written) == len(set(written.tolist()))


@given(st.integers(0, 40), st.integers(1, 30), st.integers(1, 12))
def test_what_a_ring_forgets_has_a_row_after_the_rings(start, count, slots):
    position_N, end = np.arange(start, start + count), start + count
    row_N, end_N = np.zeros(count, int), np.full(count, end)
    mapped_N = slot_mapping(position_N, row_N, end_N, slots=slots, trash=999, capture_start=slots)
    kept_N = position_N >= end - slots
    assert mapped_N[kept_N].tolist() == (position_N[kept_N] % slots).tolist()
    assert mapped_N[~kept_N].tolist() == [slots + index for index in np.flatnonzero(~kept_N)]


def test_padding_goes_to_the_trash_row_though_what_is_forgotten_is_kept():
    position_N, row_N, end_N = np.array([7, 8, 9, -1, -1]), np.zeros(5, int), np.full(5, 10)
    mapped_N = slot_mapping(position_N, row_N, end_N, slots=2, trash=99, capture_start=20)
    assert mapped_N.tolist() == [20, 0, 1, 99, 99]
