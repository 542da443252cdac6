"""Compiled experts of blocks of any format: `expert_step` on loops that are called by address."""

from .code_cache import compile_now
from .expert_step import LOOP_TYPES, expert_loop
from .loops import in_order, inlined
from .panel_product import call_address
from .tile import WORD

__all__ = ["block_experts"]


@inlined
def _product(x_NI, address_P, y_NO, start, end):
    code, scale, rows = address_P[0], address_P[1], address_P[2]
    (N, inputs), outputs = x_NI.shape, y_NO.shape[1]
    x, y = x_NI.ctypes.data, y_NO.ctypes.data
    call_address(rows, (x, N, inputs, code, scale, y, outputs, start, end))


_experts = expert_loop(_product, WORD)


@in_order
def block_experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds):
    """Add a step's experts of blocks to `y_ND`, as `expert_step.expert_loop` says."""
    _experts(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds)


compile_now(block_experts, *LOOP_TYPES)
