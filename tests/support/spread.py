"""A tiny model on ranks that are threads, with every dispatched (token, expert) pair counted.

Every rank gets the same input and must return the same output. Each MoE layer runs a second time
with fake experts that return how many of a token's choices are local: if dispatch or combine lost
or repeated a pair, the sum of its token would not be experts_per_token.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mimo_v2_flash import MiMoV2FlashModel
from mimo_v2_flash.checkpoint.params import MoEWeights
from mimo_v2_flash.layers.hooks import HookCall, HookedLayers
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from tests.support.tiny import Recipe, Tiny, running

DISPATCHERS = [None, "all_gather", "all_to_all"]
dispatchers = st.sampled_from(DISPATCHERS)


@st.composite
def plans(draw, world: int) -> ParallelConfig:
    """Draw a ParallelConfig for `world` ranks."""
    divisors = [size for size in range(1, world + 1) if world % size == 0]
    tensor = draw(st.sampled_from([size for size in divisors if size & (size - 1) == 0]))
    return ParallelConfig(draw(st.sampled_from([None, *divisors])), tensor, world // tensor)


def admitting(recipe: Recipe, plan: ParallelConfig) -> Recipe:
    """Return `recipe` with numbers of heads, channels and experts that `plan` can shard."""
    T, P = plan.tensor_parallel_size, plan.expert_parallel_size
    num_kv_heads = 1 << (recipe.num_kv_heads.bit_length() - 1)
    queries = max(2, T // num_kv_heads) * -(-recipe.queries_per_kv_head // 2)
    return replace(
        recipe,
        num_kv_heads=num_kv_heads,
        queries_per_kv_head=queries,
        dense_width=T * -(-recipe.dense_width // T),
        experts=P * -(-recipe.experts // P),
    )


def favouring(model: Tiny, experts: slice) -> Tiny:
    """Return `model` with router biases that make every token choose among `experts`."""
    layers = []
    for layer in model.weights.layers:
        mixture = layer.feed_forward
        if isinstance(mixture, MoEWeights):
            bias_E = np.array(mixture.bias_E)
            bias_E[experts] += 50
            mixture = mixture._replace(bias_E=bias_E)
        layers.append(layer._replace(feed_forward=mixture))
    return model._replace(weights=model.weights._replace(layers=tuple(layers)))


def on_ranks(
    model: Tiny, plan: ParallelConfig, program: Callable[[MiMoV2FlashModel], Any], **options: Any
) -> Any:
    """Return the output of `program(model)`, which must be the same on every rank of `plan`."""
    group, pairs = ThreadGroup(plan.world_size), [Counter() for _ in range(plan.world_size)]

    def on_rank(rank: int) -> Any:
        backend = HookedLayers(lambda call: _count(pairs[rank], call))
        return program(running(model, group=group, plan=plan, backend=backend, **options))

    first, *others = group.run(on_rank)
    for other in others:
        np.testing.assert_equal(other, first)
    total = sum(pairs, Counter())
    assert total["chosen"] == total["computed"] == total["combined"]
    assert total["chosen"] > 0 or not any(spec.num_experts for spec in model.config.layers)
    return first


def _count(pairs: Counter, call: HookCall) -> None:
    if call.part == "experts":
        pairs["computed"] += int(np.sum(_is_local(call.args[2], call.args[3])))
    if call.part != "moe":
        return
    position_N, rank = call.args[1:3]
    sum_ND, _ = replace(call.function, expert_fn=_count_local)(*call.args, **call.kwargs)
    chosen_N = np.where(position_N >= 0, call.function.experts_per_token, 0)
    np.testing.assert_array_equal(sum_ND[:, 0], chosen_N)
    if rank.tensor_rank_1[0] == 0:  # the other ranks that share heads have the same tokens
        pairs["chosen"] += int(np.sum(chosen_N))
        pairs["combined"] += int(np.sum(sum_ND[:, 0]))


def _is_local(expert_NA: Any, experts: Any) -> Any:
    return (expert_NA >= 0) & (expert_NA < len(experts))


def _count_local(x_ND: Any, weight_NA: Any, expert_NA: Any, experts: Any) -> Any:
    count_N1 = np.sum(_is_local(expert_NA, experts), axis=1, keepdims=True)
    return np.broadcast_to(count_N1, x_ND.shape).astype(np.float32)
