"""Static-shape MoE dispatch with capacity buckets.

Shapes are static, but how many tokens choose a rank or an expert depends on the data. So a step has
buckets of growing capacity: the first has twice the capacity that balanced routing needs, the last
has capacity for any routing. A step that overflows a bucket is computed again in the next one; no
token is dropped.

Source: GShard, arXiv:2006.16668, section 3.2, for capacities (GShard drops tokens on overflow).
MiMo on 32 ranks, 128 tokens on each: 29 of them choose a rank, 128 of all choose an expert.
"""

from mimo_v2_flash.kernels.moe_block import AllGatherDispatcher, AllToAllDispatcher, Dispatcher

from .eager_dispatchers import MoEStepShape

__all__ = ["static_dispatchers"]

# Tokens of a step on all ranks up to which reading the experts' weights dominates the time.
STATIC_ALL_GATHER_TOKENS = 256
CAPACITY_FACTORS = (2, 4)  # multiples of the capacity that balanced routing needs
CAPACITY_MULTIPLE = 8  # capacities are multiples of it


def static_dispatchers(name: str | None, shape: MoEStepShape) -> tuple[Dispatcher, ...]:
    """Return a step's dispatchers in the order to try them: `ExecutionMode.dispatchers`.

    Programs compute padding as well, so capacities follow from `local_tokens`, padding included.
    """
    P, local_tokens, all_tokens = shape.ranks, shape.local_tokens, shape.local_tokens * shape.ranks
    few = name is None and all_tokens <= STATIC_ALL_GATHER_TOKENS
    if not shape.num_experts or few or name == "all_gather":
        return (AllGatherDispatcher(),)
    messages = local_tokens * (1 - (1 - 1 / P) ** shape.experts_per_token)
    pairs_per_expert = all_tokens * shape.experts_per_token / shape.num_experts
    capacities = [
        (
            min(local_tokens, _round_up(factor * messages)),
            min(all_tokens, _round_up(factor * pairs_per_expert)),
        )
        for factor in CAPACITY_FACTORS
    ]
    capacities.append((local_tokens, all_tokens))
    return tuple(AllToAllDispatcher(*capacity) for capacity in dict.fromkeys(capacities))


def _round_up(count: float) -> int:
    return -int(-count // CAPACITY_MULTIPLE) * CAPACITY_MULTIPLE
