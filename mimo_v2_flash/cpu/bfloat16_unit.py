"""Whether products of activations in bfloat16 use the processor's bfloat16 vector unit.

LLVM ends the process where it cannot select an instruction. So what numba compiles for is asked,
which is the host but for NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, before anything is compiled.

Processors that have matrix units (AMX) too, which are Intel's, take four cycles for what float32
does in two: there the unit is not used.

Source: `magic_tuple` of numba's code generator, by which its code on disk is kept apart.
docs/decisions/0042 has the figures.
"""

import os
from collections.abc import Collection
from functools import cache

from numba.core.registry import cpu_target

from mimo_v2_flash.process_variables import integer_variable

__all__ = ["FEATURES", "has_unit", "is_faster", "uses_unit"]

VARIABLE = "MIMO_BFLOAT16_UNIT"
FEATURES = frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))


def has_unit(features: Collection[str] = FEATURES) -> bool:
    """Return whether a target with these features of LLVM's has the unit, 512 bits wide."""
    return "+avx512f" in features and "+avx512bf16" in features


def is_faster(features: Collection[str] = FEATURES) -> bool:
    """Return whether there is a unit that is faster than float32."""
    return has_unit(features) and "+amx-bf16" not in features


@cache
def uses_unit() -> bool:
    """Return whether products use the unit: as MIMO_BFLOAT16_UNIT says, else where it is faster.

    With 1 where there is none, its instruction is computed in float32: for tests.

    Raises
    ------
    ValueError
        If the variable is neither 0 nor 1; it is named.
    """
    return bool(integer_variable(os.environ, VARIABLE, maximum=1, default=int(is_faster())))
