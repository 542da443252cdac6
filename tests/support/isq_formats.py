"""Formats of all types of --isq by name, block and bytes alone: what tables and topologies ask."""

import numpy as np

from mimo_v2_flash.quantization import QuantizedTensor, StoredTensor, registry
from mimo_v2_flash.quantization.isq_types import ISQ_TYPES

BLOCKS = {  # columns of a block, and its bytes: ggml's, OCP's, and this package's int8 and int4
    "q8_0": (32, 34),
    "q6_k": (256, 210),
    "q4_k": (256, 144),
    "q3_k": (256, 110),
    "int8": (1, 1),
    "int4": (128, 66),
    "mxfp4": (32, 17),
}


def format_of(name: str) -> type[QuantizedTensor]:
    """Return a format of which nothing can be made, with the sizes of the real one."""
    columns, size = BLOCKS[name]

    class Sized(QuantizedTensor):
        format, block = name, columns
        tensors = (StoredTensor("data", f"weight_{name}", np.uint8),)

        @classmethod
        def stored_shapes(cls, shape, ranks=1):
            return {"data": (shape[0], shape[1] // columns * size)}

    return Sized


def register_sizes(patch) -> None:
    """Let every type have a format, for as long as `patch` lasts."""
    sized = {name: format_of(name) for name in ISQ_TYPES if name in BLOCKS}
    patch.setattr(registry, "FORMATS", registry.FORMATS | sized)
