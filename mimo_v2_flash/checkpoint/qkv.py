"""Where a checkpoint has a layer's q, k and v: apart, apart with crossing scales, or fused."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization.fp8 import BLOCK

from . import fp8, param_specs
from .fp8 import HALF_BLOCK
from .param_specs import SCALE

__all__ = ["CrossingKV", "FusedQKV", "crossing_keys", "joined_projections"]


class CrossingKV(NamedTuple):
    """The names of k and v where scale rows of k go on into v."""

    k: str
    v: str
    heads: fp8.Heads


class FusedQKV(NamedTuple):
    """The name of MiMo-V2.5's `qkv_proj`: [q | k | v] of each of some tensor-parallel ranks."""

    qkv: str
    heads: fp8.Heads
    ranks: int


def joined_projections(
    prefix: str,
    spec: LayerSpec,
    config: MiMoConfig,
    tensors: Mapping[str, Any],
    where: Callable[[str], str],
    shard_spec: ShardSpec = UNSHARDED,
) -> CrossingKV | FusedQKV | None:
    """Return which of a layer's q, k and v must be read together; None if each has its own scales.

    Parameters
    ----------
    prefix, spec
        The layer.
    config
        The whole model.
    tensors
        What has a `shape`, by name: arrays or TensorInfos.
    where
        Returns the beginning of messages about the tensor of a name.
    shard_spec
        The part of the model in the checkpoint: where heads are split, scales do not cross.

    Raises
    ------
    ValueError
        If the scale rows of k and v fit neither plain grids nor the crossing map.
    """
    a = spec.attention
    heads = fp8.Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    fused = f"{prefix}.{param_specs.FUSED}"
    if fused in tensors:
        return FusedQKV(fused, heads, config.num_key_value_heads)
    _, k, v, *_ = (param.name for param in param_specs.attention(prefix, a, spec.hidden_size))
    are_scaled = k + SCALE in tensors and v + SCALE in tensors
    if not are_scaled or shard_spec.tensor_parallel_size > 1:
        return None
    k_shapes, v_shapes = ((tensors[n].shape, tensors[n + SCALE].shape) for n in (k, v))
    return CrossingKV(k, v, heads) if fp8.crosses(where(k), k_shapes, v_shapes, heads) else None


def crossing_keys(config: MiMoConfig) -> set[str]:
    """Return the names of the k weights whose last scale row covers rows of v too, on the hub."""
    names = set()
    for index, spec in enumerate(config.layers):
        a = spec.attention
        ends_in_half = a.head_dim % BLOCK and not (a.head_dim % HALF_BLOCK or a.v_head_dim % BLOCK)
        if ends_in_half and a.num_kv_heads == config.num_key_value_heads:
            names.add(param_specs.attention(f"model.layers.{index}", a, spec.hidden_size)[1].name)
    return names
