"""Memory of every device: bytes of weights, KV cache and activation buffers.

Shapes come from the modules that allocate: weights are counted on sharded meta tensors, which take
no memory, and the cache by the arithmetic with which the engine admits requests.
"""

from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import DecoderWeights, ModelWeights, MoEWeights, nbytes
from mimo_v2_flash.checkpoint.subset import shard_weights
from mimo_v2_flash.config import AttentionSpec, MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.kv_bytes import KVBytes
from mimo_v2_flash.mtp_runner import mtp_cache_layers
from mimo_v2_flash.parallel_config import ParallelConfig, ShardSpec

from .meta import meta_weights, one_of_each_layer
from .traffic import TokenBytes
from .workload import Workload

__all__ = ["Device", "buffer_bytes", "cache_bytes", "devices", "fullest_device", "weight_bytes"]


class Device(NamedTuple):
    """Bytes on one device.

    Attributes
    ----------
    weights
        Bytes by kind: experts, router, attention, dense, norms, embedding, head and, if there are
        any, mtp: all weights of the MTP heads.
    cache
        Bytes of keys, values and positions of all layers, in all slots; and of what MTP heads that
        draft have there.
    buffers
        Bytes of the largest arrays of a step, by kind. `stream`: the hidden states, before and
        after a norm. `attention`: a layer's queries, keys, values and outputs. `exchange`:
        dispatched tokens and expert outputs, if every token of the expert-parallel group comes to
        this rank. `logits`: the logits of one token, and of its drafts, in every sequence.
        Attention scores and other temporaries within a kernel are not counted.
    """

    weights: dict[str, int]
    cache: int
    buffers: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of weights, cache and buffers together."""
        return sum(self.weights.values()) + self.cache + sum(self.buffers.values())


def devices(config: MiMoConfig, plan: ParallelConfig, workload: Workload) -> list[Device]:
    """Return the memory of every rank's device, rank 0 first.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    plan : ParallelConfig
        How many ranks split what.
    workload : Workload
        Sequences, lengths and dtypes.

    Raises
    ------
    ValueError
        If the parallel config or the workload does not fit the model; number and limit are named.
    """
    plan.check(config)
    workload.check(config)
    # Only tensor parallelism makes ranks differ: every rank has as many experts.
    shards = [plan.shard_spec(rank) for rank in range(plan.tensor_parallel_size)]
    stored = workload.weight_dtype, workload.mtp_heads, workload.layout
    weights = weight_bytes(config, shards, *stored)

    @cache
    def device(tensor_parallel_rank: int, rows: int) -> Device:
        shard_spec = shards[tensor_parallel_rank]
        return Device(
            weights[tensor_parallel_rank],
            cache_bytes(config, shard_spec, rows, workload),
            buffer_bytes(config, plan, shard_spec, rows, workload),
        )

    return [
        device(rank % plan.tensor_parallel_size, len(plan.batch_range(rank, workload.batch_size)))
        for rank in range(plan.world_size)
    ]


def fullest_device(config: MiMoConfig, plan: ParallelConfig, workload: Workload) -> Device:
    """Return the device with the most bytes; arguments and errors are those of `devices`.

    Parameters
    ----------
    config, plan, workload
        As for `devices`.
    """
    return max(devices(config, plan, workload), key=lambda device: device.total)


def weight_bytes(
    config: MiMoConfig,
    shards: list[ShardSpec],
    dtype: str,
    mtp_heads: int = 0,
    layout: HubLayout = SPLIT,
) -> list[dict[str, int]]:
    """Return the bytes of each shard's weights, by kind.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    shards : list of ShardSpec
        The part of each rank.
    dtype : str
        How matrices are stored.
    mtp_heads : int
        Number of MTP heads that are held.
    layout : HubLayout
        How experts are stored.
    """
    small, kind_of_layer = one_of_each_layer(config)
    count_of_kind = Counter(kind_of_layer)
    weights = meta_weights(small, dtype, mtp_heads, layout)
    counts = tuple(count_of_kind[kind] for kind in range(small.num_hidden_layers))
    return [_by_kind(shard_weights(weights, small, shard_spec), counts) for shard_spec in shards]


def cache_bytes(config: MiMoConfig, shard_spec: ShardSpec, rows: int, workload: Workload) -> int:
    """Return the bytes of a rank's cache of `rows` sequences.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    shard_spec : ShardSpec
        The rank's part.
    rows : int
        Sequences of the rank.
    workload : Workload
        Lengths and dtypes.
    """
    local = list(map(shard_spec.local_layer, config.layers))
    local += mtp_cache_layers(config, shard_spec, workload.draft_tokens)
    sizes = KVBytes.of(local, rows, workload.context, workload.cache_dtype)
    return sizes.total(rows, workload.context)


def _by_kind(weights: ModelWeights, counts: tuple[int, ...]) -> dict[str, int]:
    """Return the bytes, by kind, of a model that has each layer of `weights` counts[i] times."""
    size_of_kind = Counter(
        embedding=nbytes(weights.embedding_VD),
        head=nbytes(weights.w_logits_VD),
        norms=nbytes(weights.final_norm_D),
    )
    for layer, count in zip(weights.layers, counts, strict=True):
        sizes = _layer_bytes(layer)
        size_of_kind.update({kind: count * size for kind, size in sizes.items()})
    size_of_kind["mtp"] = nbytes(weights.mtp)
    return dict(+size_of_kind)  # without kinds that the model has not


def _layer_bytes(layer: DecoderWeights) -> dict[str, int]:
    feed_forward = layer.feed_forward
    norms = nbytes((layer.attention_norm_D, layer.feed_forward_norm_D))
    sizes = {"attention": nbytes(layer.attention), "norms": norms}
    if not isinstance(feed_forward, MoEWeights):
        return sizes | {"dense": nbytes(feed_forward)}
    router = nbytes((feed_forward.w_router_ED, feed_forward.bias_E))
    return sizes | {"experts": nbytes(feed_forward.experts), "router": router}


def buffer_bytes(
    config: MiMoConfig, plan: ParallelConfig, shard_spec: ShardSpec, rows: int, workload: Workload
) -> dict[str, int]:
    """Return the bytes of the largest arrays of a rank's step, by kind, as of `Device`.

    Parameters
    ----------
    config
        The architecture.
    plan
        How many ranks split what.
    shard_spec
        What of the weights the rank has.
    rows
        Tokens of a pass of the rank.
    workload
        Sequences, lengths and dtypes.
    """
    layers = set(map(shard_spec.local_layer, config.layers))
    dtype, tokens = np.dtype(workload.activation_dtype), rows * workload.step
    logits = workload.batch_size * (1 + workload.draft_tokens)
    dispatched = plan.expert_parallel_size * workload.local_tokens(plan, workload.step)
    per_token = (sum(TokenBytes.of(spec, dtype)) for spec in layers if spec.num_experts)
    return {
        "stream": 2 * tokens * config.hidden_size * dtype.itemsize,
        "attention": tokens * max(_channels(spec.attention) for spec in layers) * dtype.itemsize,
        "exchange": dispatched * max(per_token, default=0),
        "logits": logits * config.vocab_size * np.dtype(np.float32).itemsize,
    }


def _channels(spec: AttentionSpec) -> int:
    return (spec.num_heads + spec.num_kv_heads) * (spec.head_dim + spec.v_head_dim)
