"""The plan of a host: what each way to hold a model takes, how fast it is, and which to take."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.checkpoint import load_weights
from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.checkpoint.subset import keep_experts, shard_weights
from mimo_v2_flash.checkpoint.weight_counts import CountedWeight, count_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload
from mimo_v2_flash.costs.decode_time import DecodeRates, DecodeTime, decode_time
from mimo_v2_flash.costs.devices import cache_bytes
from mimo_v2_flash.costs.meta import NUM_MTP_HEADS, meta_model
from mimo_v2_flash.costs.placement import Placement, choose
from mimo_v2_flash.device_map import candidates, working_bytes
from mimo_v2_flash.inputs import cache_dtype_name
from mimo_v2_flash.machine.model_files import weight_files
from mimo_v2_flash.parallel_config import ParallelConfig

from .console import amount, console, table
from .options import NamedModel

__all__ = ["HostPlan", "host_weights", "plan_host", "report_host"]


class HostPlan(NamedTuple):
    """What a host can do with a model.

    Attributes
    ----------
    placements
        All ways to hold it, each with its expected time if rates are known.
    memory
        Bytes of each rank.
    chosen
        The placement that `--device-map auto` takes; None if nothing fits.
    reason
        Why nothing fits, in a sentence.
    sequence_bytes
        Bytes of keys and values of a sequence.
    ranks
        Processes that share the host.
    """

    placements: list[tuple[Placement, DecodeTime | None]]
    memory: int
    chosen: Placement | None
    reason: str
    sequence_bytes: int
    ranks: int = 1


def host_weights(
    model: Path,
    named: NamedModel,
    dtype: str,
    parallel: ParallelConfig,
    experts: Sequence[int] | None = None,
) -> tuple[list[CountedWeight], MiMoConfig]:
    """Return the weights that a rank holds, of the model's files or of what it names, and a config.

    Both are of these `experts`, or of all.
    """
    config = named.config
    if weight_files(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = load_weights(model, config)
    else:
        weights = meta_model(config, dtype, NUM_MTP_HEADS, named.layout)
    weights, config = keep_experts(weights, config, experts)
    return count_weights(_shard(weights, config, parallel), config), config


def _shard(weights: ModelWeights, config: MiMoConfig, parallel: ParallelConfig) -> ModelWeights:
    share = parallel.shard_spec(0)
    return weights if parallel.world_size == 1 else shard_weights(weights, config, share)


def plan_host(
    config: MiMoConfig,
    weights: list[CountedWeight],
    request: IsqRequest,
    workload: Workload,
    parallel: ParallelConfig,
    *,
    memory: int,
    rates: DecodeRates | None,
) -> HostPlan:
    """Return what a host of `memory` bytes for each rank can do with a model."""
    sizes = {"max_length": workload.context, "max_step": workload.step}
    dtypes = {"cache_dtype": workload.cache_dtype, "batch_size": workload.batch_size}
    other = working_bytes(config, parallel, **sizes, **dtypes)
    resident, stored = candidates(weights, request, other, can_quantize=parallel.world_size == 1)
    stores = [each.with_store(memory) for each in stored if each.experts_bytes]
    every = [*resident, *(each for each in stores if each.expert_cache != each.experts_bytes)]
    sequence = cache_bytes(config, parallel.shard_spec(0), 1, workload)
    options = {"batch_size": workload.batch_size, "kv_bytes": sequence * workload.batch_size}
    times = [rates and decode_time(each, config, rates, **options) for each in every]
    try:
        chosen, reason = choose(resident, stored, memory), ""
    except ValueError as error:
        chosen, reason = None, str(error)
    timed = list(zip(every, times, strict=True))
    return HostPlan(timed, memory, chosen, reason, sequence, parallel.world_size)


def report_host(plan: HostPlan, model: Path, workload: Workload) -> dict[str, Any]:
    """Print a plan, and return its numbers."""
    out = console()
    rows = [_row(each, time, plan.memory) for each, time in plan.placements]
    columns = ("weights", "experts"), ("weights, MB", "in all, MB", "fits", "tokens/s")
    out.print(table(f"Ways to hold it in {amount(plan.memory)}", *columns, rows))
    dtype = cache_dtype_name(workload.cache_dtype)
    out.print(
        f"Keys and values of a sequence of {workload.context} tokens take "
        f"{amount(plan.sequence_bytes)} in {dtype}; counted are {workload.batch_size}."
    )
    command = _command(plan, model, dtype)
    if plan.chosen is None:
        out.print(f"Nothing fits: {plan.reason}.")
    else:
        room = plan.memory - plan.chosen.needed_bytes
        more = max(0, room // max(plan.sequence_bytes, 1))
        out.print(f"Recommended: {plan.chosen}. {more:,} more such sequences fit beside it.")
        out.print(f"  {command}")
    return {
        "placements": [_numbers(each, time, plan.memory) for each, time in plan.placements],
        "sequence_bytes": plan.sequence_bytes,
        "recommended": command,
        "reason": plan.reason or None,
    }


def _row(placement: Placement, time: DecodeTime | None, memory: int) -> tuple[str, ...]:
    whole = placement.experts_bytes
    experts = "resident" if whole else "none"
    if placement.expert_cache is not None:
        experts = f"cache, {placement.expert_cache / max(whole, 1):.0%}"
    held = placement.needed_bytes - placement.other_bytes
    speed = time.tokens_per_second if time else None
    return (
        placement.label,
        experts,
        f"{held / 1e6:,.0f}",
        f"{placement.needed_bytes / 1e6:,.0f}",
        "yes" if placement.needed_bytes <= memory else "no",
        "-" if speed is None else f"{speed:,.1f}",
    )


def _command(plan: HostPlan, model: Path, dtype: str) -> str | None:
    """Return the command that runs the recommended placement."""
    if plan.chosen is None:
        return None
    program = "mimo run"
    if plan.ranks > 1:
        program = f"torchrun --nproc-per-node {plan.ranks} -m mimo_v2_flash serve"
    words = [program, f"-m {model if model.exists() else 'FOLDER'}", plan.chosen.options]
    words += [f"--cache-dtype {dtype}"] if dtype != "float32" else []
    return " ".join(filter(None, words))


def _numbers(placement: Placement, time: DecodeTime | None, memory: int) -> dict[str, Any]:
    return {
        "weights": placement.label,
        "expert_cache_bytes": placement.expert_cache,
        "experts_bytes": placement.experts_bytes,
        "other_weights_bytes": placement.resident_bytes,
        "working_bytes": placement.other_bytes,
        "needed_bytes": placement.needed_bytes,
        "fits": placement.needed_bytes <= memory,
        "tokens_per_second": time.tokens_per_second if time else None,
        "options": placement.options,
    }
