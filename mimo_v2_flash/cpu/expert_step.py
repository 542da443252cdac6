"""Compiled mixture of experts of few tokens: one call for all chosen experts of a layer.

Threads take tasks from a list. First, for blocks of an expert's hidden channels: gate and up, and
their SwiGLU. When all of these are done, for blocks of the model's channels: down of every expert,
weighted and added in the order of experts. So the sums of a token have one order, whatever the
threads and the other tokens.

Source: `kernels/moe_expert.py` is the plain statement. docs/decisions/0040 has the figures.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import boolean, float32, int32, int64, intp, types

from .code_cache import compile_now
from .exponential import silu
from .loops import OUTPUT, ROW_BLOCK, in_order, inlined, input_type
from .rounding import nearest_bfloat16, round_rows
from .task_counter import STRIDE, add_one, wait_for
from .thread_pool import MIN_SHARED_WORK, available_threads, parallel_for
from .tile import LANES, LINE, WORD, interleave_words

__all__ = [
    "LOOP_TYPES", "Pairs", "add_experts", "expert_loop", "group_by_expert", "interleave",
    "task_rows",
]  # fmt: skip

MAX_TASK, MIN_TASK = 128, 16  # rows of a weight in a task
TASKS = 4  # for each thread, so that all threads end together
ONE = np.float32(1)
NEXT_HIDDEN, HIDDEN_DONE, NEXT_OUTPUT = (index * STRIDE for index in range(3))
COUNTERS = 3 * STRIDE
GATE, UP, DOWN = 0, 1, 2


class Pairs(NamedTuple):
    """Pairs of a token and an expert that it chose, expert after expert.

    Attributes
    ----------
    expert_G, start_G
        The experts that are chosen, and where the pairs of each begin and the last end.
    token_J, weight_J
        Each pair's token and routing weight.
    """

    expert_G: Any
    start_G: Any
    token_J: Any
    weight_J: Any


@inlined
def _local(expert, experts):
    return expert if 0 <= expert < experts else experts


@in_order
def _pair_starts(expert_NA, experts):
    """Return where the pairs of each expert begin, those of other ids behind them, and the end."""
    (N, A), start_E = expert_NA.shape, np.zeros(experts + 2, np.intp)
    for j in range(N * A):
        start_E[_local(expert_NA[j // A, j % A], experts) + 1] += 1
    for expert in range(experts + 1):
        start_E[expert + 1] += start_E[expert]
    return start_E


@in_order
def group_by_expert(weight_NA, expert_NA, experts):
    """Return the `Pairs` of a step with one of `experts` local experts: no other ids."""
    (N, A), start_E, groups = expert_NA.shape, _pair_starts(expert_NA, experts), 0
    expert_G, start_G = np.empty(experts, np.intp), np.empty(experts + 1, np.intp)
    for expert in range(experts):
        if start_E[expert] < start_E[expert + 1]:
            expert_G[groups], start_G[groups] = expert, start_E[expert]
            groups += 1
    pairs = start_G[groups] = start_E[experts]
    token_J, weight_J = np.empty(N * A, np.intp), np.empty(N * A, np.float32)
    for j in range(N * A):
        expert = _local(expert_NA[j // A, j % A], experts)
        place = start_E[expert]
        token_J[place], weight_J[place] = j // A, weight_NA[j // A, j % A]
        start_E[expert] += 1
    return Pairs(expert_G[:groups], start_G[: groups + 1], token_J[:pairs], weight_J[:pairs])


@in_order
def task_rows(rows, groups, threads):
    """Return how many of a weight's `rows` a task has: fewer for more threads, whole lines."""
    fitting = rows * groups // (TASKS * threads) // MIN_TASK * MIN_TASK
    return max(MIN_TASK, min(MAX_TASK, fitting))


@inlined
def _swiglu(gate_F, up_F, start, stop):
    """Replace channels `start` to `stop` of `gate_F` by silu(gate) x up."""
    for f in range(start, stop):
        gate_F[f] = silu(gate_F[f]) * up_F[f]


@inlined
def _round(value_F, start, stop):
    for f in range(start, stop):
        value_F[f] = nearest_bfloat16(value_F[f])


@in_order
def interleave(value_F, out_F, start, stop, per_word):
    """Copy channels `start` to `stop` in the order of `tile.interleave_words`."""
    vector, whole = LANES * per_word, value_F.size // (LINE // WORD * per_word)
    end = whole * (LINE // WORD * per_word)
    for f in range(start, stop):
        inner = f % vector
        place = f - inner + inner % per_word * LANES + inner // per_word
        out_F[place if f < end else f] = value_F[f]


@inlined
def _add_weighted(out_D, weight, y_D, start, stop):
    for d in range(start, stop):
        y_D[d] += weight * out_D[d]


def _hidden_loop(part: Any, per_word: int) -> Any:
    """Return the first loop: gate, up and SwiGLU of blocks of an expert's hidden channels."""

    @inlined
    def loop(x_JD, address_EWP, pairs, hidden_JF, count_C, threads, rounds):
        F, start_G = hidden_JF.shape[1], pairs.start_G
        rows = task_rows(F, pairs.expert_G.size, threads)
        per_group = -(-F // rows)
        tasks = per_group * pairs.expert_G.size
        gate_NF, up_NF = np.empty((ROW_BLOCK, F), np.float32), np.empty((ROW_BLOCK, F), np.float32)
        task = add_one(count_C, NEXT_HIDDEN)
        while task < tasks:
            g, start = task // per_group, task % per_group * rows
            address_WP, stop = address_EWP[pairs.expert_G[g]], min(start + rows, F)
            for j in range(start_G[g], start_G[g + 1], ROW_BLOCK):
                n = min(ROW_BLOCK, start_G[g + 1] - j)
                part(x_JD[j : j + n], address_WP[GATE], gate_NF[:n], start, stop)
                part(x_JD[j : j + n], address_WP[UP], up_NF[:n], start, stop)
                for row in range(n):
                    _swiglu(gate_NF[row], up_NF[row], start, stop)
                    if rounds:
                        _round(gate_NF[row], start, stop)
                    interleave(gate_NF[row], hidden_JF[j + row], start, stop, per_word)
            add_one(count_C, HIDDEN_DONE)
            task = add_one(count_C, NEXT_HIDDEN)
        wait_for(count_C, HIDDEN_DONE, tasks)

    return loop


def _output_loop(part: Any) -> Any:
    """Return the second loop: down of all experts, for blocks of the model's channels."""

    @inlined
    def loop(hidden_JF, address_EWP, pairs, y_ND, count_C, threads):
        D, start_G = y_ND.shape[1], pairs.start_G
        rows, out_ND = task_rows(D, 1, threads), np.empty((ROW_BLOCK, D), np.float32)
        start = add_one(count_C, NEXT_OUTPUT) * rows
        while start < D:
            stop = min(start + rows, D)
            for g in range(pairs.expert_G.size):
                address_P = address_EWP[pairs.expert_G[g], DOWN]
                for j in range(start_G[g], start_G[g + 1], ROW_BLOCK):
                    n = min(ROW_BLOCK, start_G[g + 1] - j)
                    part(hidden_JF[j : j + n], address_P, out_ND[:n], start, stop)
                    for row in range(n):
                        token, weight = pairs.token_J[j + row], pairs.weight_J[j + row]
                        _add_weighted(out_ND[row], weight, y_ND[token], start, stop)
            start = add_one(count_C, NEXT_OUTPUT) * rows

    return loop


def expert_loop(part: Any, size: int) -> Any:
    """Return the loop of a storage format whose elements have `size` bytes.

    `part(x_NI, address_P, y_NO, start, end)` fills columns `start` to `end` of a product, x in the
    order of `tile.interleave_words`, from the weight at the addresses of `CompiledWeight.address`.
    """
    hidden_loop, output_loop = _hidden_loop(part, WORD // size), _output_loop(part)

    @inlined
    def loop(x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds):
        hidden_loop(x_JD, address_EWP, pairs, hidden_JF, count_C, threads, rounds)
        output_loop(hidden_JF, address_EWP, pairs, y_ND, count_C, threads)

    return loop


_IDS = types.Array(intp, 1, "C")
PAIRS = types.NamedTuple((_IDS, _IDS, _IDS, types.Array(float32, 1, "C")), Pairs)
LOOP_TYPES = (
    *(input_type(float32), types.Array(int64, 3, "C"), PAIRS, OUTPUT, OUTPUT),
    *(types.Array(int64, 1, "C"), intp, boolean),
)
compile_now(group_by_expert, input_type(float32), input_type(int32), intp)


def add_experts(
    loop: Any,
    itemsize: int,
    x_ND: np.ndarray,
    pairs: Pairs,
    address_EWP: np.ndarray,
    width: int,
    y_ND: np.ndarray,
    compute: str = "float32",
) -> None:
    """Add to each token in `y_ND` the weighted sum over the experts of its pairs, all float32.

    `loop` reads gate, up and down of expert e, whose hidden layer has `width` channels and whose
    elements `itemsize` bytes, at the addresses `address_EWP[e]`. `compute` is what the tokens and
    the hidden channels are rounded to, a key of `quantization.compute.COMPUTE_TYPES`.
    """
    x_ND = round_rows(np.ascontiguousarray(x_ND), compute)
    x_JD = interleave_words(x_ND, itemsize)[pairs.token_J]
    hidden_JF, count_C = np.empty((len(x_JD), width), np.float32), np.zeros(COUNTERS, np.int64)
    threads = available_threads() if x_JD.size * width >= MIN_SHARED_WORK else 1
    rounds = compute == "bfloat16"
    arguments = x_JD, address_EWP, pairs, hidden_JF, y_ND, count_C, threads, rounds
    parallel_for(lambda _: loop(*arguments), threads)
