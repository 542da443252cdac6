"""INT4's loops: packed rows are the decoded rows."""

from hypothesis import given, settings

from mimo_v2_flash.cpu import int4
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_blocks_are_packed


@given(seeds)
@settings(max_examples=20)
def test_packed_rows_are_the_decoded_rows(seed):
    assert_blocks_are_packed("int4", int4.int4_packer, seed)
