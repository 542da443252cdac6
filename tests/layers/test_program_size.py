"""How many layers a program may have: the published count, the limit, rows of the matrix unit."""

from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.layers.program_size import (
    MOST_INSTRUCTIONS,
    layers_per_program,
    machine_instructions,
)

rows = st.integers(1, 20_000)


def test_what_neuronx_cc_counted_is_the_estimate():
    """Kiln: 12 layers at 2,048 rows were refused with 39,723,713 instructions."""
    assert machine_instructions(12, 2048) == 39_723_713
    assert layers_per_program(2048) < 12


@given(rows)
def test_as_many_layers_as_the_compiler_accepts_and_not_one_more(count):
    most = layers_per_program(count)
    assert most == 1 or machine_instructions(most, count) <= MOST_INSTRUCTIONS
    assert machine_instructions(most + 1, count) > MOST_INSTRUCTIONS


@given(rows, st.integers(1, 48))
def test_an_instruction_is_for_128_rows_or_for_fewer(count, layers):
    padded = -(-count // 128) * 128
    assert machine_instructions(layers, count) == machine_instructions(layers, padded)


def test_a_decode_step_of_up_to_128_sequences_is_two_ranges():
    assert [layers_per_program(count) for count in (1, 32, 128, 129, 256)] == [24, 24, 24, 12, 12]
