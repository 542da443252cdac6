"""Whether products of activations in bfloat16 use the processor's bfloat16 units.

LLVM ends the process where it cannot select an instruction. So what numba compiles for is asked,
which is the host but for NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, before anything is compiled.

Processors that have a matrix unit (AMX), which are Intel's, multiply bfloat16 in their vector unit
at half of float32's speed. Linux lets a process use the matrix unit if it has asked before.

Source: `magic_tuple` of numba's code generator, by which its code on disk is kept apart; Linux,
Documentation/arch/x86/xstate.rst. docs/decisions/0042 has the figures.
"""

import ctypes
import os
import sys
from collections.abc import Collection
from functools import cache

from numba.core.registry import cpu_target

from mimo_v2_flash.process_variables import integer_variable

__all__ = ["FEATURES", "has_matrix_unit", "has_vector_unit", "is_permitted", "uses_unit"]

VARIABLE = "MIMO_BFLOAT16_UNIT"
FEATURES = frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
ARCH_PRCTL, REQUEST, TILE_DATA = 158, 0x1023, 18  # of x86-64: permission for a part of the state


def has_vector_unit(features: Collection[str] = FEATURES) -> bool:
    """Return whether a target with these features of LLVM's has a vector unit of 512 bits."""
    return {"+avx512f", "+avx512bf16"} <= set(features)


def has_matrix_unit(features: Collection[str] = FEATURES) -> bool:
    """Return whether a target with these features of LLVM's has a matrix unit."""
    return {"+avx512f", "+amx-tile", "+amx-bf16"} <= set(features)


@cache
def is_permitted() -> bool:
    """Return whether this process may use its matrix unit: it asks the system, for all threads."""
    if not (has_matrix_unit() and sys.platform == "linux"):
        return False
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0)


@cache
def uses_unit() -> bool:
    """Return whether products use a unit: as MIMO_BFLOAT16_UNIT says, else where one is faster.

    With 1 where there is none, the vector unit's instruction is computed in float32: for tests.

    Raises
    ------
    ValueError
        If the variable is neither 0 nor 1; it is named.
    """
    is_faster = is_permitted() or (has_vector_unit() and not has_matrix_unit())
    return bool(integer_variable(os.environ, VARIABLE, maximum=1, default=int(is_faster)))
