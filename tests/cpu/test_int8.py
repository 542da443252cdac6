"""INT8's loops: packed rows are the decoded rows."""

from hypothesis import given, settings

from mimo_v2_flash.cpu import int8
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_blocks_are_packed


@given(seeds)
@settings(max_examples=20)
def test_packed_rows_are_the_decoded_rows(seed):
    assert_blocks_are_packed("int8", int8.int8_packer, seed)
