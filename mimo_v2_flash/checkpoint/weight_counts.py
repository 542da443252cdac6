"""The weights of a loaded model by the names of a checkpoint, as tables of formats take them.

All experts of a layer are stored alike: one of them stands for all, with their number.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig

from . import param_specs
from .isq_table import IsqRequest, IsqRow, StoredWeight, isq_table
from .param_specs import EMBEDDING, EXPERTS, MTP_PREFIX, ParamSpec
from .params import DecoderWeights, ModelWeights, MoEWeights
from .safetensors_file import dtype_name

__all__ = ["CountedRow", "CountedWeight", "count_weights", "counted_table"]


class CountedWeight(NamedTuple):
    """A weight, and how many are stored as it is: one, or as many as a layer has experts."""

    weight: StoredWeight
    number: int


class CountedRow(NamedTuple):
    """What becomes of a weight when a model is quantized, and of how many like it.

    Attributes
    ----------
    row
        The weight's row in the table.
    number
        How many weights are so.
    """

    row: IsqRow
    number: int

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self.number * self.row.nbytes

    @property
    def form(self) -> str:
        """The format or dtype in which they are."""
        return self.row.form or self.row.stored

    @property
    def is_expert(self) -> bool:
        """Whether they are matrices of experts."""
        return EXPERTS in self.row.name

    @property
    def is_read(self) -> bool:
        """Whether every token reads them, or some of them if they are experts."""
        return self.row.name != EMBEDDING and not self.row.name.startswith(MTP_PREFIX)


def counted_table(weights: list[CountedWeight], request: IsqRequest) -> list[CountedRow]:
    """Return what becomes of weights, in their order."""
    rows = isq_table([each.weight for each in weights], request)
    return [CountedRow(row, each.number) for row, each in zip(rows, weights, strict=True)]


def count_weights(weights: ModelWeights, config: MiMoConfig) -> list[CountedWeight]:
    """Return the weights of a model; of a rank's shard those that it holds."""
    ends = weights.embedding_VD, weights.final_norm_D, weights.w_logits_VD
    counted = list(_named(param_specs.embedding_norm_head(config), ends))
    for index, (layer, spec) in enumerate(zip(weights.layers, config.layers, strict=True)):
        prefix, norms = f"model.layers.{index}", (layer.attention_norm_D, layer.feed_forward_norm_D)
        counted += _named(param_specs.layer_norms(prefix, spec), norms)
        counted += _matrices(prefix, layer, spec)
    for index, head in enumerate(weights.mtp):
        prefix, width = param_specs.mtp_prefix(index), config.hidden_size
        inner = head.layer.attention_norm_D, head.layer.feed_forward_norm_D
        all_norms = head.embedding_norm_D, head.hidden_norm_D, *inner, head.final_norm_D
        counted += _named(param_specs.mtp_norms(prefix, width), all_norms)
        counted += _named([param_specs.mtp_input(prefix, width)], [head.w_eh_DI])
        counted += _matrices(prefix, head.layer, config.mtp_layer)
    return counted


def _matrices(prefix: str, layer: DecoderWeights, spec: LayerSpec) -> Iterator[CountedWeight]:
    """Yield all weights of a layer but its norms."""
    attention = param_specs.attention(prefix, spec.attention, spec.hidden_size)
    yield from _named(attention, layer.attention)
    feed_forward = layer.feed_forward
    if not isinstance(feed_forward, MoEWeights):
        yield from _named(param_specs.dense(prefix, spec), feed_forward)
        return
    router = feed_forward.w_router_ED, feed_forward.bias_E
    yield from _named(param_specs.router(prefix, spec), router)
    experts = feed_forward.experts
    yield from _named(param_specs.expert(prefix, spec, 0), experts[0], len(experts))


def _named(params: Any, weights: Any, number: int = 1) -> Iterator[CountedWeight]:
    """Yield weights by the names of parameters; what has no parameter, sinks, is left out."""
    for param, weight in zip(params, weights, strict=False):
        yield CountedWeight(_stored(param, weight), number)


def _stored(param: ParamSpec, weight: Any) -> StoredWeight:
    stored = getattr(weight, "format", None) or dtype_name(np.dtype(weight.dtype))
    shape = tuple(int(size) for size in weight.shape)
    return StoredWeight(param.name, shape, stored, int(weight.nbytes))
