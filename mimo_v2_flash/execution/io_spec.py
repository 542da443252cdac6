"""What a program takes and gives, read from its module: the names that its NEFF will have.

Source: nkipy, `core/backend/hlo.py`: names are attributes of parameters and of the root; that of an
input which is changed in place ends in ".must_alias_input", that of such an output does not.
"""

from math import prod
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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
"""By HLO's names."""


class TensorSpec(NamedTuple):
    """An input or an output."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.dtype.itemsize


class ProgramIO(NamedTuple):
    """A program's inputs, its outputs, and which input lies where an output will, by numbers."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    in_place: dict[int, int]


def program_io(module: Any) -> ProgramIO:
    """Return what an `HloModuleProto` of nkipy's takes and gives.

    Raises
    ------
    ValueError
        If two outputs have one name: a NEFF would have one output less.
    """
    (entry,) = (c for c in module.computations if c.id == module.entry_computation_id)
    (root,) = (i for i in entry.instructions if i.id == entry.root_id)
    taken = sorted(
        (i for i in entry.instructions if i.opcode == "parameter"),
        key=lambda instruction: instruction.parameter_number,
    )
    given = root.frontend_attributes.map["neff_output_names"].split(",")
    if len(set(given)) < len(given):
        raise ValueError(f"program {module.name} returns an array twice: {', '.join(given)}")
    return ProgramIO(
        tuple(_tensor_spec(i.frontend_attributes.map["neff_input_names"], i.shape) for i in taken),
        tuple(map(_tensor_spec, given, root.shape.tuple_shapes or [root.shape])),
        {
            next(iter(alias.output_shape_index), 0): alias.parameter_number
            for alias in module.input_output_alias.entries
        },
    )


def _tensor_spec(name: str, shape: Any) -> TensorSpec:
    types = shape.DESCRIPTOR.fields_by_name["element_type"].enum_type.values_by_number
    dtype = np.dtype(DTYPES[types[shape.element_type].name])
    return TensorSpec(name, tuple(shape.dimensions), dtype)
