"""Compiled experts of plain weights, bfloat16 and float32: `expert_step` on loops of `floats`."""

from numba import carray, float32, uint16

from .code_cache import compile_now
from .expert_step import LOOP_TYPES, expert_loop
from .floats import BFLOAT16, FLOAT32, bfloat16_rows, float32_rows
from .loops import in_order, inlined
from .tile import pointer

__all__ = ["bfloat16_experts", "float32_experts"]


@inlined
def _bfloat16_product(x_NI, address_P, y_NO, start, end):
    bits_OI = carray(pointer(address_P[0]), (y_NO.shape[1], x_NI.shape[1]), uint16)
    bfloat16_rows(x_NI, bits_OI, y_NO, start, end)


@inlined
def _float32_product(x_NI, address_P, y_NO, start, end):
    w_OI = carray(pointer(address_P[0]), (y_NO.shape[1], x_NI.shape[1]), float32)
    float32_rows(x_NI, w_OI, y_NO, start, end)


_bfloat16_experts = expert_loop(_bfloat16_product, BFLOAT16.size)
_float32_experts = expert_loop(_float32_product, FLOAT32.size)


@in_order
def bfloat16_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds):
    """Add a step's experts of bfloat16 bits to `y_ND`, as `expert_step.expert_loop` says."""
    _bfloat16_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds)


@in_order
def float32_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds):
    """Add a step's experts of float32 to `y_ND`, as `expert_step.expert_loop` says."""
    _float32_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds)


compile_now(bfloat16_experts, *LOOP_TYPES)
compile_now(float32_experts, *LOOP_TYPES)
