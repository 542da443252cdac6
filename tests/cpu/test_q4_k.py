"""Q4_K's loops: packed rows are the decoded rows."""

from hypothesis import given, settings

from mimo_v2_flash.cpu import q4_k
from tests.support.drawn import seeds
from tests.support.packed_parts import assert_blocks_are_packed


@given(seeds)
@settings(max_examples=20)
def test_packed_rows_are_the_decoded_rows(seed):
    assert_blocks_are_packed("q4_k", q4_k.q4_k_packer, seed)
