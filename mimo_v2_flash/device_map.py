"""The device map "auto": how a checkpoint is held in the memory that this machine has free."""

import warnings
from collections.abc import Sequence
from os import PathLike
from typing import Any

from .checkpoint import load_weights
from .checkpoint.isq_table import IsqRequest
from .checkpoint.subset import keep_experts, keep_layers, shard_weights
from .checkpoint.weight_counts import CountedWeight, count_weights
from .config import MiMoConfig
from .costs import Workload
from .costs.devices import buffer_bytes, cache_bytes
from .costs.placement import AS_STORED, SMALLER, Placement, choose, placements
from .engine.memory_size import memory_size
from .gguf_files import as_folder, gguf_in
from .inputs import MAX_STEP, as_cache_dtype
from .parallel import ALONE, HostGroup
from .parallel_config import UNSHARDED, ParallelConfig
from .quantization.isq_types import isq_name

__all__ = ["CONTEXT", "MEMORY", "auto_placement", "candidates", "working_bytes"]

MEMORY = "90%"
"""The part of the free memory that is used: as the engine takes for keys and values."""
CONTEXT = 4096
"""Tokens of keys and values that have room where the model has more."""


def auto_placement(
    path: str | PathLike[str],
    config: MiMoConfig,
    request: IsqRequest,
    *,
    isq_cache: Any = None,
    parallel: ParallelConfig | None = None,
    group: HostGroup = ALONE,
    memory: int | str = MEMORY,
    num_layers: int | None = None,
    expert_subset: Sequence[int] | None = None,
    **sizes: Any,
) -> Placement:
    """Return the placement that is taken of a checkpoint: a collective call.

    Parameters
    ----------
    path, config
        The checkpoint.
    request
        What weights are quantized to; if that is nothing, formats are tried too.
    isq_cache
        Folder of quantized weights, if there is one: an expert store may read them.
    parallel, group
        How the model is split, and the ranks.
    memory
        What may be used, as of `memory_size`.
    num_layers, expert_subset
        What of the model is kept, as of `load_model`.
    **sizes
        `max_length`, `max_step` and `cache_dtype`, as of `working_bytes`.

    Raises
    ------
    ValueError
        If nothing fits.
    """
    parallel = parallel or ParallelConfig(data_parallel_size=group.size)
    share = parallel.shard_spec(group.rank)
    with warnings.catch_warnings():  # the model that is loaded then warns
        warnings.simplefilter("ignore")
        weights = load_weights(path, config, share=share)
    is_whole = group.size == 1 and weights.shard_spec == UNSHARDED
    if num_layers is not None:
        weights, config = keep_layers(weights, config, num_layers)
    weights, config = keep_experts(weights, config, expert_subset)
    if weights.shard_spec != share:
        weights = shard_weights(weights, config, share)
    counted = count_weights(weights, config)
    can_quantize = is_whole and not gguf_in(as_folder(path))
    other = working_bytes(config, parallel, group.rank, **sizes)
    limit = memory_size("memory", memory, group)
    return choose(
        *candidates(counted, request, other, can_quantize=can_quantize, isq_cache=isq_cache), limit
    )


def candidates(
    weights: list[CountedWeight],
    request: IsqRequest,
    other_bytes: int,
    *,
    can_quantize: bool,
    isq_cache: Any = None,
) -> tuple[list[Placement], list[Placement]]:
    """Return the placements with resident experts, the preferred first, and those for a store.

    Parameters
    ----------
    weights
        Sizes and places of all weights.
    request
        What weights are to be quantized to.
    other_bytes
        Bytes beside the weights.
    can_quantize
        Whether other formats may be chosen.
    isq_cache
        Folder that keeps quantized weights.
    """
    label = isq_name(request.isq) if request.isq else AS_STORED
    if request.topology.rules:
        label = "by the topology"
    requests = [(label, request)]
    if can_quantize and not request.text:
        requests += [(isq_name(form), IsqRequest(form)) for form in SMALLER]
    first, *others = placements(weights, requests, other_bytes=other_bytes)
    smaller = [each for each in others if each.needed_bytes < first.needed_bytes]
    is_in_files = not request.text or isq_cache is not None
    return [first, *smaller], [first] if is_in_files else []


def working_bytes(
    config: MiMoConfig,
    parallel: ParallelConfig,
    rank: int = 0,
    *,
    max_length: int | None = None,
    max_step: int | None = None,
    cache_dtype: Any = None,
    batch_size: int = 1,
) -> int:
    """Return the bytes beside weights that a rank's sequences take: keys, values and buffers.

    Parameters
    ----------
    config
        The architecture.
    parallel
        How many ranks split what.
    rank
        The rank.
    max_length
        Most tokens of a sequence; by default 4,096 or the context.
    max_step
        Most tokens of a pass.
    cache_dtype
        Dtype of keys and values.
    batch_size
        Number of sequences.
    """
    context = min(max_length or CONTEXT, config.max_position_embeddings)
    dtype = as_cache_dtype("cache_dtype", cache_dtype or "float32")
    workload = Workload(batch_size, context, min(max_step or MAX_STEP, context), cache_dtype=dtype)
    rows = len(parallel.batch_range(rank, batch_size)) or 1
    spec = parallel.shard_spec(rank)
    buffers = buffer_bytes(config, parallel, spec, rows, workload)
    if parallel.world_size == 1:
        del buffers["exchange"]
    return cache_bytes(config, spec, rows, workload) + sum(buffers.values())
