"""One rank of `benchmarks.ranks`, started by torchrun: computes, and counts what it takes."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel
from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.parallel import HostGroup, InstrumentedGroup, init_process_group
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.weights.random_weights import random_weights

__all__ = ["WAYS", "Found", "model_config", "work"]

SEQUENCES, PROMPT, DECODED = 8, 64, 16  # 512 tokens at once, then 16 times 8
WAYS = {"prefill": "all_to_all", "decode": "all_gather"}  # as the sizes of these steps ask

Found = dict[str, dict[str, float]]


def model_config(*, quick: bool) -> MiMoConfig:
    """Return four layers: full and dense, two sliding, full; 64 experts, 8 of a token."""
    width = 128 if quick else 1024
    return MiMoConfig(
        vocab_size=8192,
        hidden_size=width,
        intermediate_size=4 * width,
        moe_intermediate_size=width // 2,
        num_hidden_layers=4,
        hybrid_layer_pattern=(0, 1, 1, 0),
        moe_layer_freq=(0, 1, 1, 1),
        num_attention_heads=16,
        swa_num_attention_heads=16,
        n_routed_experts=64,
    )


def work() -> dict[str, Any]:
    """Return what is computed."""
    config = model_config(quick=False).to_dict()
    return {"sequences": SEQUENCES, "prompt": PROMPT, "decoded": DECODED, "config": config}


def main(*, quick: bool) -> None:
    """Compute, and let rank 0 print what all have found."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    config = model_config(quick=quick)
    weights = random_weights(config, seed=0)
    with init_process_group(os.environ) as world:
        computed(world, config, weights)  # compiles what must be compiled
        found = computed(world, config, weights)
    if world.rank == 0:
        sys.stdout.write(json.dumps(found) + "\n")


def computed(world: HostGroup, config: MiMoConfig, weights: Any) -> Found:
    """Return what prefill and decoding take: all ranks together, and a rank on average."""
    record, counted = DispatchStatsBackend(), InstrumentedGroup(world)
    plan = ParallelConfig(data_parallel_size=world.size)
    model = MiMoV2FlashModel(weights, config, group=counted, plan=plan, backend=record)
    cache = model.new_cache(SEQUENCES, PROMPT + DECODED)
    token_BT = np.random.default_rng(0).integers(0, config.vocab_size, (SEQUENCES, PROMPT))
    last_B1 = np.full((SEQUENCES, 1), PROMPT - 1)
    position_BT = np.tile(np.arange(PROMPT), (SEQUENCES, 1))
    total = 0.0

    def prefill() -> None:
        model.step(token_BT, position_BT, cache, logits_at=last_B1)

    def decode() -> None:
        nonlocal total
        for place in range(PROMPT, PROMPT + DECODED):
            logits = model.step(token_BT[:, :1], np.full((SEQUENCES, 1), place), cache)
            total += float(np.abs(logits).mean())

    found = {}
    for name, phase in (("prefill", prefill), ("decode", decode)):
        before = _seconds_of(counted)
        seconds, processor = timed(world, phase)
        beside = world.all_reduce(np.array([_seconds_of(counted) - before]))[0] / world.size
        way = record.by_dispatcher[WAYS[name]].total(world)
        found[name] = _figures(way, world.size) | {
            "seconds": seconds,
            "processor_seconds": processor,
            "beside_seconds": beside,
        }
    return found | {"logits": {"sum": total}}


def timed(world: HostGroup, phase: Callable[[], None]) -> tuple[float, float]:
    """Return seconds of a phase, and those of processors, of all ranks together."""
    world.all_reduce(np.zeros(1))
    start, used = time.perf_counter(), time.process_time()
    phase()
    used = time.process_time() - used
    processor = world.all_reduce(np.array([used]))[0]
    return time.perf_counter() - start, float(processor)


def _seconds_of(counted: InstrumentedGroup) -> float:
    return sum(tally.seconds for tally in counted.stats.values())


def _figures(way: DispatchStats, ranks: int) -> dict[str, float]:
    """Return what one way to the experts carried, per token and layer, and a rank's seconds."""
    return {
        "tokens": way.tokens,
        "lost_pairs": way.pairs - way.computed,
        "sent_bytes": way.sent / way.tokens,
        "least_bytes": way.lower_bound / way.tokens,
        "exchange_seconds": way.dispatch_seconds / ranks,
        "expert_seconds": way.expert_seconds / ranks,
    }


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
