"""One rank's share of a model's weights: views where a file allows it.

Rows and experts lie together in a file and stay there, mapped. Columns lie apart: those of o_proj
and of the dense down_proj are copied, this rank's and no others. A cut inside a row of FP8 blocks
slices their grid, whose blocks become lower.
"""

from math import gcd
from typing import Any

import numpy as np

from mimo_v2_flash.config import AttentionSpec, LayerSpec, MiMoConfig
from mimo_v2_flash.kernels.block_scale import BLOCK, BlockScaled
from mimo_v2_flash.plan import WHOLE, Share

from .records import (
    AttentionWeights,
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)

__all__ = ["cut_columns", "cut_model", "cut_rows", "of_heads"]


def cut_model(weights: ModelWeights, config: MiMoConfig, share: Share) -> ModelWeights:
    """Return the share of `weights`; weights that are that share already are returned as they are.

    Raises
    ------
    ValueError
        If the weights are another share, or a column cut lies inside an FP8 block.
    """
    if weights.share == share:
        return weights
    if weights.share != WHOLE:
        raise ValueError(f"the weights are {weights.share}, this rank's are {share}")
    layers = zip(weights.layers, config.layers, strict=True)
    return weights._replace(
        layers=tuple(_layer(layer, spec, share) for layer, spec in layers),
        w_logits_VD=cut_rows(weights.w_logits_VD, share.part(config.vocab_size)),
        share=share,
    )


def cut_rows(w_OI: Any, rows: range) -> Any:
    """Return `rows` of a matrix, as a view."""
    if not isinstance(w_OI, BlockScaled):
        return w_OI[rows.start : rows.stop]
    # The lowest common block: 64 rows for a head of 192 in blocks of 128.
    height = gcd(rows.start, w_OI.block_height)
    blocks = range(rows.start // height, -(-rows.stop // height))
    source = np.array(blocks) * height // w_OI.block_height
    return BlockScaled(w_OI.code[rows.start : rows.stop], w_OI.scale[source], height)


def cut_columns(w_OI: Any, columns: range) -> Any:
    """Return a copy of `columns` of a matrix.

    Raises
    ------
    ValueError
        If the first is not the first of an FP8 block.
    """
    if not isinstance(w_OI, BlockScaled):
        return np.ascontiguousarray(w_OI[:, columns.start : columns.stop])
    if columns.start % BLOCK:
        raise ValueError(
            f"a share begins at column {columns.start} of an FP8 weight {w_OI.shape}, inside a "
            f"block of {BLOCK}: allowed is a tensor_parallel that cuts between blocks"
        )
    blocks = slice(columns.start // BLOCK, -(-columns.stop // BLOCK))
    code_OI = np.ascontiguousarray(w_OI.code[:, columns.start : columns.stop])
    return BlockScaled(code_OI, np.ascontiguousarray(w_OI.scale[:, blocks]), w_OI.block_height)


def of_heads(heads: range, width: int) -> range:
    """Return the rows, or columns, of `heads` that are `width` wide each."""
    return range(heads.start * width, heads.stop * width)


def _layer(layer: DecoderWeights, spec: LayerSpec, share: Share) -> DecoderWeights:
    attention = _attention(layer.attention, spec.attention, share)
    whole = layer.feed_forward
    if isinstance(whole, MoEWeights):
        return layer._replace(attention=attention, feed_forward=_mixture(whole, spec, share))
    return layer._replace(attention=attention, feed_forward=_dense(whole, spec, share))


def _attention(whole: AttentionWeights, spec: AttentionSpec, share: Share) -> AttentionWeights:
    if share.tensor_parallel == 1:
        return whole
    queries, keys = share.part(spec.heads), share.keys(spec.kv_heads)
    return AttentionWeights(
        cut_rows(whole.w_q_OD, of_heads(queries, spec.key_width)),
        cut_rows(whole.w_k_OD, of_heads(keys, spec.key_width)),
        cut_rows(whole.w_v_OD, of_heads(keys, spec.value_width)),
        cut_columns(whole.w_o_DI, of_heads(queries, spec.value_width)),
        whole.sink_H[queries.start : queries.stop],
    )


def _dense(whole: DenseWeights, spec: LayerSpec, share: Share) -> DenseWeights:
    if share.tensor_parallel == 1:
        return whole
    width = share.part(spec.feed_forward)
    return DenseWeights(
        cut_rows(whole.w_gate_FD, width),
        cut_rows(whole.w_up_FD, width),
        cut_columns(whole.w_down_DF, width),
    )


def _mixture(whole: MoEWeights, spec: LayerSpec, share: Share) -> MoEWeights:
    here = share.experts(spec.experts)
    stacks = (stack[here.start : here.stop] for stack in whole.experts)
    return whole._replace(experts=ExpertWeights(*stacks))
