"""Q8_0's loops: packed rows are the decoded rows."""

from hypothesis import given, settings

from mimo_v2_flash.cpu import q8_0
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_blocks_are_packed


@given(seeds)
@settings(max_examples=20)
def test_packed_rows_are_the_decoded_rows(seed):
    assert_blocks_are_packed("q8_0", q8_0.q8_0_packer, seed)
