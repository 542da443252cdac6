"""Tokens to their experts and back in programs: all to all ranks, or room for so many and for more.

Shapes are static, and how many tokens choose a rank or an expert is not. So a step has buckets: the
first has twice the room that even choices would take, the last room for any. What overflows one is
computed again in the next; nothing is dropped.

Source: GShard, arXiv:2006.16668, section 3.2, for capacities (there, what overflows is dropped).
MiMo on 32 ranks, 128 tokens on each: 29 of them choose a rank, 128 of all choose an expert.
"""

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher, Dispatcher

from .eager_dispatchers import MoEStepShape

__all__ = ["static_dispatchers"]

FEW_TOKENS = 256  # rows before every expert up to which reading its weights is what takes time
ROOM = (2, 4)  # times what even choices would take
STEP = 8  # buckets are multiples of it


def static_dispatchers(name: str | None, shape: MoEStepShape) -> tuple[Dispatcher, ...]:
    """Return the exchanges of a step, one after the other to be tried: `ExecutionMode.dispatchers`.

    A program computes padding as well: it is the tokens that ranks take that count.
    """
    P, local_tokens, everything = shape.ranks, shape.local_tokens, shape.local_tokens * shape.ranks
    few = name is None and everything <= FEW_TOKENS
    if not shape.num_experts or few or name == "all_gather":
        return (AllGatherDispatcher(),)
    messages = local_tokens * (1 - (1 - 1 / P) ** shape.experts_per_token)
    pairs_per_expert = everything * shape.experts_per_token / shape.num_experts
    sizes = [
        (
            min(local_tokens, _rounded(times * messages)),
            min(everything, _rounded(times * pairs_per_expert)),
        )
        for times in ROOM
    ]
    return tuple(
        AllToAllDispatcher(*size) for size in dict.fromkeys([*sizes, (local_tokens, everything)])
    )


def _rounded(count: float) -> int:
    return -int(-count // STEP) * STEP
