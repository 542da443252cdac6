"""Tokens to their experts and back in programs: all to all ranks, or room for so many and for more.

Shapes are static, and how many tokens choose a rank or an expert is not. So a step has buckets: the
first has twice the room that even choices would take, the last room for any. What overflows one is
computed again in the next; nothing is dropped.

Source: GShard, arXiv:2006.16668, section 3.2, for capacities (there, what overflows is dropped).
MiMo on 32 ranks, 128 tokens on each: 29 of them choose a rank, 128 of all choose an expert.
"""

from mimo_v2_flash.kernels.moe_block import AllToAll, Exchange, by_all_gather

from .eager_dispatchers import Crowd

__all__ = ["bucket_exchanges"]

FEW_TOKENS = 256  # rows before every expert up to which reading its weights is what takes time
ROOM = (2, 4)  # times what even choices would take
STEP = 8  # buckets are multiples of it


def bucket_exchanges(name: str | None, crowd: Crowd) -> tuple[Exchange, ...]:
    """Return the exchanges of a step, one after the other to be tried: `Form.exchanges`.

    A program computes padding as well: it is the tokens that ranks take that count.
    """
    P, own, everything = crowd.ranks, crowd.own, crowd.own * crowd.ranks
    few = name is None and everything <= FEW_TOKENS
    if not crowd.experts or few or name == "all_gather":
        return (by_all_gather,)
    messages = own * (1 - (1 - 1 / P) ** crowd.choices)
    answers = everything * crowd.choices / crowd.experts
    sizes = [
        (min(own, _rounded(times * messages)), min(everything, _rounded(times * answers)))
        for times in ROOM
    ]
    return tuple(AllToAll(*size) for size in dict.fromkeys([*sizes, (own, everything)]))


def _rounded(count: float) -> int:
    return -int(-count // STEP) * STEP
