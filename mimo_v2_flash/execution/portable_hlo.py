"""Conversion of nkipy's HLO to portable HLO, without Neuron's custom calls.

Source: nkipy, `core/backend/hlo.py` (`_handle_topk`, `_make_program_shape`); XLA, `hlo.proto`: the
upper half of an instruction's id is the id of its computation.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from nkipy.core.backend.hlo import TOPK_CUSTOM_CALL

from .hlo import array_shapes, entry_computation

__all__ = ["make_portable"]


def make_portable(module: Any) -> Any:
    """Return a copy of an `HloModuleProto` with a sort in place of each of Neuron's top-k calls.

    Among equal values, the lowest index comes first.

    Raises
    ------
    ValueError
        If the module has another custom call.
    """
    copy = type(module).FromString(module.SerializeToString())
    _write_layouts(copy)
    callees: list[Any] = []
    for computation in copy.computations:
        for instruction in computation.instructions:
            if instruction.opcode == "custom-call":
                first_id = 1 + len(copy.computations) + len(callees)
                callees += _replace_by_sort(computation, instruction, first_id, type(module))
    computations = [type(part).FromString(part.SerializeToString()) for part in copy.computations]
    del copy.computations[:]
    copy.computations.extend(callees + computations)  # XLA wants callees first
    return copy


def top_k(x: Any, *, k: int) -> tuple[Any, Any]:
    """Return the k largest values along the last axis and their indices, as uint32."""
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    value, index = jax.lax.sort_key_val(-x, index, is_stable=True)
    return -value[..., :k], index[..., :k].astype(jnp.uint32)


def _replace_by_sort(computation: Any, call: Any, first_id: int, module_type: Any) -> list[Any]:
    """Make `call` call a sort; return the sort's computations, with ids from `first_id`."""
    if call.custom_call_target != TOPK_CUSTOM_CALL:
        raise ValueError(f"{call.name}: XLA has no custom call {call.custom_call_target}")
    shape_of = {i.id: i.shape for i in computation.instructions}
    (shape,) = array_shapes(shape_of[call.operand_ids[0]])
    dtype = {"F32": np.float32, "BF16": jnp.bfloat16}[shape.type_name]
    x = jax.ShapeDtypeStruct(shape.lengths, dtype)
    lowered = jax.jit(partial(top_k, k=int(call.backend_config))).lower(x).compiler_ir("hlo")
    sort = module_type.FromString(lowered.as_serialized_hlo_module_proto())
    for part in sort.computations:
        _renumber(part, first_id)
    call.opcode = "call"
    call.ClearField("custom_call_target")
    call.ClearField("backend_config")
    call.called_computation_ids.append(sort.entry_computation_id + first_id)
    return list(sort.computations)


def _renumber(computation: Any, first_id: int) -> None:
    """Give a computation and its instructions ids and names that are new in the module."""
    shift = first_id << 32
    computation.id += first_id
    computation.name = f"{computation.name}.{computation.id}"
    computation.root_id += shift
    for instruction in computation.instructions:
        instruction.ClearField("metadata")  # it refers to tables of the module that is dropped
        instruction.id += shift
        instruction.name = f"{instruction.name}.{instruction.id}"
        instruction.operand_ids[:] = [operand + shift for operand in instruction.operand_ids]
        called = [called + first_id for called in instruction.called_computation_ids]
        instruction.called_computation_ids[:] = called


def _write_layouts(module: Any) -> None:
    """Write the layouts that nkipy leaves out: XLA refuses aliased inputs without a layout."""
    for program_shape in (module.host_program_shape, entry_computation(module).program_shape):
        result = program_shape.result
        for shape in (*program_shape.parameters, *(result.tuple_shapes or [result])):
            if not shape.layout.minor_to_major:
                shape.layout.minor_to_major.extend(reversed(range(len(shape.dimensions))))
                shape.layout.tail_padding_alignment_in_elements = 1
