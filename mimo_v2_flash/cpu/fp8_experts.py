"""Compiled experts of FP8 blocks: `expert_step` on the loops of `fp8`."""

from numba import carray, float32, int8

from .code_cache import compile_now
from .expert_step import LOOP_TYPES, expert_loop
from .fp8 import FLOAT8, WIDTH, float8_rows
from .loops import in_order, inlined
from .tile import pointer

__all__ = ["float8_experts"]


@inlined
def _product(x_NI, address_P, y_NO, start, end):
    outputs, inputs, height = y_NO.shape[1], x_NI.shape[1], address_P[2]
    code_OI = carray(pointer(address_P[0]), (outputs, inputs), int8)
    grid = (-(-outputs // height), -(-inputs // WIDTH))
    scale_YX = carray(pointer(address_P[1]), grid, float32)
    float8_rows(x_NI, code_OI, scale_YX, y_NO, start, end, height)


_experts = expert_loop(_product, FLOAT8.size)


@in_order
def float8_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds):
    """Add a step's experts of FP8 blocks to `y_ND`, as `expert_step.expert_loop` says."""
    _experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds)


compile_now(float8_experts, *LOOP_TYPES)
