"""How many layers a program may have: a bound on the machine instructions that neuronx-cc accepts.

Source: AWS Neuron documentation, NCC_EBVF030, for the limit of 5,000,000 instructions. What a layer
has: neuronx-cc's own count, 39,723,713 in 12 layers of experts at 2,048 rows of GLM-5.3-Flash,
whose hidden size is MiMo's, published by Kiln. It is the only count that is published.
"""

__all__ = ["MOST_INSTRUCTIONS", "layers_per_program", "machine_instructions"]

MOST_INSTRUCTIONS = 5_000_000
"""Machine instructions of a program that neuronx-cc accepts."""

MEASURED_INSTRUCTIONS, MEASURED_LAYERS, MEASURED_ROWS = 39_723_713, 12, 2048
ROWS = 128  # of the matrix unit: an instruction is for so many rows, or for fewer


def machine_instructions(layers: int, rows: int) -> int:
    """Return an estimate of neuronx-cc's instructions for `rows` tokens through `layers` layers.

    `rows` are the tokens that a rank's experts see. The estimate is high for decoding: it is from a
    prompt, whose tokens attend to each other.
    """
    padded = -(-rows // ROWS) * ROWS
    return layers * padded * MEASURED_INSTRUCTIONS // (MEASURED_LAYERS * MEASURED_ROWS)


def layers_per_program(rows: int) -> int:
    """Return how many layers a program for `rows` tokens may have, at least one.

    Examples
    --------
    >>> layers_per_program(32), layers_per_program(128), layers_per_program(256)
    (24, 24, 12)
    """
    return max(1, MOST_INSTRUCTIONS // machine_instructions(1, rows))
