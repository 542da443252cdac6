"""A layer's q, k and v in a checkpoint: split, or fused in an order that the checkpoint tells.

MiMo-V2.5 and V2.6 store [q | k | v] of each tensor-parallel rank, rank after rank: as many ranks
as full layers have KV heads, in sliding layers and MTP heads too. Converted files may have
[q | k | v] of all heads. The config says which it is, or the number of scale rows of the first
layer that tells: of full layers, where blocks of 128 rows end within a rank. In MiMo's sliding
layers both orders have the same scales.

Source: vLLM #57508; SGLang `get_mimo_v2_fused_qkv_expected_tp_size`; docs/checkpoint.md.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.quantization import StoredLayout, find_joint_layout
from mimo_v2_flash.quantization.stored_layout import FusedRows, Projections

from . import param_specs

__all__ = ["find_layout", "find_layouts"]

Where = Callable[[str], str]


def find_layouts(
    config: MiMoConfig, tensors: Mapping[str, Any], where: Where
) -> Iterator[StoredLayout | FusedRows]:
    """Yield the layouts of q, k and v that lie together, of all layers and MTP heads.

    Parameters and errors are those of `find_layout`.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    tensors : mapping of str
        Tensors, or their TensorInfo, by name.
    where : callable
        Returns where a tensor is, for messages.
    """
    for prefix, spec in param_specs.layers(config, tensors):
        if layout := find_layout(prefix, config, spec, tensors, where):
            yield layout


def find_layout(
    prefix: str, config: MiMoConfig, spec: LayerSpec, tensors: Mapping[str, Any], where: Where
) -> StoredLayout | FusedRows | None:
    """Return how q, k and v of the layer at `prefix` lie together; None if each is by itself.

    Parameters
    ----------
    prefix, config, spec
        The layer, and the whole model.
    tensors
        What has a `shape`, by name: arrays, or entries of headers.
    where
        Returns the beginning of messages about the tensor of a name.

    Raises
    ------
    ValueError
        If rows or scales fit no order of a fused weight, or nothing tells the order; the message
        names the tensor.
    """
    request = param_specs.projections(prefix, config, spec)
    if request.qkv not in tensors:
        return find_joint_layout(request, tensors, where)
    request = request._replace(ranks=_fused_ranks(config, tensors, where))
    layout = find_joint_layout(request, tensors, where)
    return layout or FusedRows.of(where(request.qkv), request)


def _fused_ranks(config: MiMoConfig, tensors: Mapping[str, Any], where: Where) -> int:
    """Return on how many ranks fused weights were made: 1 if they are plain."""
    ranks, has_scales = config.num_key_value_heads, False
    if config.fused_qkv_weight_order:
        return ranks if config.fused_qkv_weight_order == "interleaved" else 1
    layers = param_specs.layers(config, tensors)
    requests = [param_specs.projections(prefix, config, spec) for prefix, spec in layers]
    fused = [request for request in requests if request.qkv in tensors]
    for request in fused:
        fits = [_fits(request._replace(ranks=count), tensors, where) for count in (ranks, 1)]
        has_scales = has_scales or None not in fits
        if sum(map(bool, fits)) == 1:
            return ranks if fits[0] else 1
    if has_scales:
        return ranks
    raise ValueError(
        f"{where(fused[0].qkv)}: has no scales that tell the order of its rows; in config.json "
        f'fused_qkv_weight_order says it: "interleaved", rank after rank, or "plain"'
    )


def _fits(request: Projections, tensors: Mapping[str, Any], where: Where) -> bool | None:
    """Return whether scales fit the ranks of a fused weight; None if it has none."""
    try:
        return find_joint_layout(request, tensors, where) is not None or None
    except ValueError:
        return False
