"""The I/O spec of a program: names, shapes and dtypes of its NEFF's inputs and outputs.

Source: nkipy, `core/backend/hlo.py`. Names are attributes of parameters and of the root. The name
of an aliased input ends in ".must_alias_input", that of the aliased output does not.
"""

from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .hlo import array_shapes, entry_computation

__all__ = ["ProgramIO", "TensorSpec", "program_io"]

DTYPES = {
    "PRED": np.bool_,
    "S32": np.int32,
    "U32": np.uint32,
    "S8": np.int8,
    "U8": np.uint8,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8E4M3": ml_dtypes.float8_e4m3,
    "F8E5M2": ml_dtypes.float8_e5m2,
}
"""NumPy's dtypes, by HLO's names."""


class TensorSpec(NamedTuple):
    """The name, shape and dtype of an input or an output."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize


class ProgramIO(NamedTuple):
    """The I/O spec of a program.

    Attributes
    ----------
    inputs, outputs
        Specs in the program's order.
    in_place
        Number of the aliased input, by the number of the output that is written into it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    in_place: dict[int, int]


def program_io(module: Any) -> ProgramIO:
    """Return the I/O spec of an `HloModuleProto` that nkipy traced.

    Raises
    ------
    ValueError
        If two outputs have the same name: the NEFF would lack one of them.
    """
    entry = entry_computation(module)
    (root,) = (i for i in entry.instructions if i.id == entry.root_id)
    parameters = sorted(
        (i for i in entry.instructions if i.opcode == "parameter"),
        key=lambda instruction: instruction.parameter_number,
    )
    output_names = root.frontend_attributes.map["neff_output_names"].split(",")
    if len(set(output_names)) < len(output_names):
        names = ", ".join(output_names)
        raise ValueError(f"program {module.name} returns an array twice: {names}")
    return ProgramIO(
        tuple(
            _tensor_spec(i.frontend_attributes.map["neff_input_names"], i.shape) for i in parameters
        ),
        tuple(map(_tensor_spec, output_names, root.shape.tuple_shapes or [root.shape])),
        {
            next(iter(alias.output_shape_index), 0): alias.parameter_number
            for alias in module.input_output_alias.entries
        },
    )


def _tensor_spec(name: str, shape: Any) -> TensorSpec:
    (array,) = array_shapes(shape)
    return TensorSpec(name, array.lengths, np.dtype(DTYPES[array.type_name]))
