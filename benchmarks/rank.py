"""One rank of `benchmarks.ranks`, started by torchrun: runs prefill and decoding, and measures."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.layers.dispatch_stats import DispatchStats, DispatchStatsBackend
from mimo_v2_flash.parallel import HostGroup, InstrumentedGroup, init_process_group
from mimo_v2_flash.parallel_config import ParallelConfig

__all__ = ["DISPATCHERS", "Results", "describe_workload", "model_config"]

SEQUENCES, PROMPT, DECODED = 8, 64, 16  # 512 tokens at once, then 16 times 8
DISPATCHERS = {"prefill": "all_to_all", "decode": "all_gather"}  # chosen by the step's size

Results = dict[str, dict[str, float]]


def model_config(*, quick: bool) -> MiMoConfig:
    """Return the config of four layers, full, sliding, sliding, full, the first one dense."""
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


def describe_workload() -> dict[str, Any]:
    """Return the sizes of the workload, and the config."""
    config = model_config(quick=False).to_dict()
    return {"sequences": SEQUENCES, "prompt": PROMPT, "decoded": DECODED, "config": config}


def main(*, quick: bool) -> None:
    """Measure, and print the results of all ranks on rank 0."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["RANK"]) % len(cores)]})
    config = model_config(quick=quick)
    weights = random_weights(config, seed=0)
    with init_process_group(os.environ) as world:
        measure(world, config, weights)  # warm-up: compiles Numba functions
        results = measure(world, config, weights)
    if world.rank == 0:
        sys.stdout.write(json.dumps(results) + "\n")


def measure(world: HostGroup, config: MiMoConfig, weights: Any) -> Results:
    """Return the figures of prefill and of decoding, summed or averaged over the ranks."""
    backend, instrumented = DispatchStatsBackend(), InstrumentedGroup(world)
    plan = ParallelConfig(data_parallel_size=world.size)
    model = MiMoV2FlashModel(weights, config, group=instrumented, plan=plan, backend=backend)
    cache = model.new_cache(SEQUENCES, PROMPT + DECODED)
    token_BT = np.random.default_rng(0).integers(0, config.vocab_size, (SEQUENCES, PROMPT))
    last_B1 = np.full((SEQUENCES, 1), PROMPT - 1)
    position_BT = np.tile(np.arange(PROMPT), (SEQUENCES, 1))
    total = 0.0

    def prefill() -> None:
        model.step(token_BT, position_BT, cache, logits_at=last_B1)

    def decode() -> None:
        nonlocal total
        for position in range(PROMPT, PROMPT + DECODED):
            logits = model.step(token_BT[:, :1], np.full((SEQUENCES, 1), position), cache)
            total += float(np.abs(logits).mean())

    results = {}
    for name, phase in (("prefill", prefill), ("decode", decode)):
        before = _seconds_of(instrumented)
        seconds, processor = timed(world, phase)
        beside = world.all_reduce(np.array([_seconds_of(instrumented) - before]))[0] / world.size
        stats = backend.by_dispatcher[DISPATCHERS[name]].total(world)
        results[name] = _figures(stats, world.size) | {
            "seconds": seconds,
            "processor_seconds": processor,
            "beside_seconds": beside,
        }
    return results | {"logits": {"sum": total}}


def timed(world: HostGroup, phase: Callable[[], None]) -> tuple[float, float]:
    """Return the wall-clock seconds of a phase, and the processor seconds of all ranks together."""
    world.all_reduce(np.zeros(1))
    start, processor_start = time.perf_counter(), time.process_time()
    phase()
    used = time.process_time() - processor_start
    processor = world.all_reduce(np.array([used]))[0]
    return time.perf_counter() - start, float(processor)


def _seconds_of(group: InstrumentedGroup) -> float:
    return sum(collective.seconds for collective in group.stats.values())


def _figures(stats: DispatchStats, ranks: int) -> dict[str, float]:
    """Return a dispatcher's bytes per token and layer, and its seconds per rank."""
    return {
        "tokens": stats.tokens,
        "lost_pairs": stats.pairs - stats.computed,
        "sent_bytes": stats.sent / stats.tokens,
        "least_bytes": stats.lower_bound / stats.tokens,
        "exchange_seconds": stats.dispatch_seconds / ranks,
        "expert_seconds": stats.expert_seconds / ranks,
    }


if __name__ == "__main__":
    main(quick="--quick" in sys.argv)
