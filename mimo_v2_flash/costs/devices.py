"""Bytes on every device: weights as the reader makes them and the cut leaves them, cache, buffers.

No size is stated here that other modules know: weights are counted on arrays that take no memory,
a cache's slots on one that has a single slot.
"""

from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.config import AttentionSpec, MiMoConfig
from mimo_v2_flash.kv_cache import new_cache, ring_slots
from mimo_v2_flash.parallel_config import ParallelConfig, ShardSpec
from mimo_v2_flash.weights.meta import meta_weights, one_of_each_layer
from mimo_v2_flash.weights.params import DecoderWeights, ModelWeights, MoEWeights, nbytes
from mimo_v2_flash.weights.shard_weights import shard_weights

from .traffic import TokenBytes
from .workload import Workload

__all__ = ["Device", "cache_bytes", "devices", "weight_bytes"]


class Device(NamedTuple):
    """Bytes on one device.

    Attributes
    ----------
    weights
        By kind: experts, router, attention, dense, norms, embedding, head. No predictors: they are
        not loaded.
    cache
        Keys, values and positions of all layers, full.
    buffers
        The largest arrays of a step, by kind. `stream`: the tokens, and the same normalised.
        `attention`: a layer's queries, keys, values and what was seen. `exchange`: messages and
        answers if every token of the ranks that share the experts comes here. `logits`: of one
        token in every sequence. Attention's scores, and what a kernel takes beside its arguments
        and answer, are not among them.
    """

    weights: dict[str, int]
    cache: int
    buffers: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return sum(self.weights.values()) + self.cache + sum(self.buffers.values())


def devices(config: MiMoConfig, plan: ParallelConfig, workload: Workload) -> list[Device]:
    """Return what every rank holds, rank 0 first.

    Raises
    ------
    ValueError
        If the model does not admit the plan or the load; number and limit are named.
    """
    plan.check(config)
    workload.check(config)
    shards = [
        plan.shard_spec(rank) for rank in range(plan.tensor_parallel_size)
    ]  # of experts: all alike
    weights = weight_bytes(config, shards, workload.weight_dtype)

    @cache
    def device(tensor_parallel_rank: int, rows: int) -> Device:
        shard_spec = shards[tensor_parallel_rank]
        kept = cache_bytes(config, shard_spec, rows, workload)
        return Device(
            weights[tensor_parallel_rank], kept, _buffers(config, plan, shard_spec, rows, workload)
        )

    return [
        device(rank % plan.tensor_parallel_size, len(plan.batch_range(rank, workload.batch_size)))
        for rank in range(plan.world_size)
    ]


def weight_bytes(config: MiMoConfig, shards: list[ShardSpec], dtype: str) -> list[dict[str, int]]:
    """Return the bytes of each share's weights, by kind."""
    few, kind_of_layer = one_of_each_layer(config)
    count_of_kind = Counter(kind_of_layer)
    whole = meta_weights(few, dtype)
    times = tuple(count_of_kind[kind] for kind in range(few.num_hidden_layers))
    return [_by_kind(shard_weights(whole, few, shard_spec), times) for shard_spec in shards]


def cache_bytes(config: MiMoConfig, shard_spec: ShardSpec, rows: int, workload: Workload) -> int:
    """Return the bytes of a rank's cache of `rows` sequences."""
    layers = tuple(map(shard_spec.local_layer, config.layers))
    small = new_cache(layers, batch_size=1, max_length=1, dtype=workload.cache_dtype)
    slots = (ring_slots(spec.attention.window, workload.context) for spec in layers)
    return sum(
        (rows * count + 1) * nbytes(layer) // 2  # a small one has a slot, and the trash row
        for count, layer in zip(slots, small.layers, strict=True)
    )


def _by_kind(weights: ModelWeights, times: tuple[int, ...]) -> dict[str, int]:
    """Return the bytes of a model that has each of its layers so many times."""
    found = Counter(
        embedding=nbytes(weights.embedding_VD),
        head=nbytes(weights.w_logits_VD),
        norms=nbytes(weights.final_norm_D),
    )
    for layer, count in zip(weights.layers, times, strict=True):
        found.update({kind: count * size for kind, size in _of_layer(layer).items()})
    return dict(found)


def _of_layer(layer: DecoderWeights) -> dict[str, int]:
    network = layer.feed_forward
    norms = nbytes((layer.attention_norm_D, layer.feed_forward_norm_D))
    of_every = {"attention": nbytes(layer.attention), "norms": norms}
    if not isinstance(network, MoEWeights):
        return of_every | {"dense": nbytes(network)}
    router = nbytes((network.w_router_ED, network.bias_E))
    return of_every | {"experts": nbytes(network.experts), "router": router}


def _buffers(
    config: MiMoConfig, plan: ParallelConfig, shard_spec: ShardSpec, rows: int, workload: Workload
) -> dict[str, int]:
    layers, item = (
        set(map(shard_spec.local_layer, config.layers)),
        np.dtype(workload.activation_dtype).itemsize,
    )
    tokens, arriving = (
        rows * workload.step,
        plan.expert_parallel_size * workload.local_tokens(plan, workload.step),
    )
    messages = (
        sum(TokenBytes.of(spec, workload.activation_dtype)) for spec in layers if spec.num_experts
    )
    return {
        "stream": 2 * tokens * config.hidden_size * item,
        "attention": tokens * max(_channels(spec.attention) for spec in layers) * item,
        "exchange": arriving * max(messages, default=0),
        "logits": workload.batch_size * config.vocab_size * np.dtype(np.float32).itemsize,
    }


def _channels(spec: AttentionSpec) -> int:
    return (spec.num_heads + spec.num_kv_heads) * (spec.head_dim + spec.v_head_dim)
