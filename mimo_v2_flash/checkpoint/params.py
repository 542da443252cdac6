"""The model's weights as pytrees: the names, axes and order of every layer's arrays.

A matrix is `[out, in]`: a float32 or bfloat16 array, or a `QuantizedTensor`; everything else is
float32.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mimo_v2_flash.execution.pytree import tree_arrays
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec

__all__ = [
    "AttentionWeights",
    "DecoderWeights",
    "DenseWeights",
    "ExpertWeights",
    "MoEWeights",
    "ModelWeights",
    "fingerprint",
    "nbytes",
]


class AttentionWeights(NamedTuple):
    """Attention weights of this shard's heads; `sink_H` is NO_SINK where a head has no sink."""

    w_q_OD: Any
    w_k_OD: Any
    w_v_OD: Any
    w_o_DI: Any
    sink_H: Any


class DenseWeights(NamedTuple):
    """Weights of one gated feed-forward network: a dense layer's, or one expert's."""

    w_gate_FD: Any
    w_up_FD: Any
    w_down_DF: Any


@dataclass(frozen=True, eq=False)
class ExpertWeights(Sequence[DenseWeights]):
    """The experts of a shard: a sequence of records of three matrices, each with its scales.

    A field holds one matrix of all experts: a stack, or a tuple of one matrix for each. Whoever
    holds experts otherwise implements the same sequence.
    """

    w_gate_eFD: Any
    w_up_eFD: Any
    w_down_eDF: Any

    def __post_init__(self) -> None:
        counts = list(map(_length, self.columns))
        if len(set(counts)) > 1:
            raise ValueError(f"ExpertWeights: {counts} matrices gate, up and down, expected equals")

    @classmethod
    def of(cls, experts: Iterable[Iterable[Any]]) -> "ExpertWeights":
        """Return experts from a record of each, as tuples."""
        return cls(*zip(*experts, strict=True))

    @property
    def columns(self) -> tuple[Any, Any, Any]:
        """Each matrix of all experts."""
        return self.w_gate_eFD, self.w_up_eFD, self.w_down_eDF

    def __len__(self) -> int:
        return _length(self.w_gate_eFD)

    def __getitem__(self, index: Any) -> Any:
        """Return the record of one expert, or the experts of a slice, as views."""
        part = (column[index] for column in self.columns)
        return ExpertWeights(*part) if isinstance(index, slice) else DenseWeights(*part)


def _length(column: Any) -> int:
    """Return the number of matrices; a device's arrays have a shape, but no `len`."""
    return len(column) if isinstance(column, tuple | list) else int(column.shape[0])


class MoEWeights(NamedTuple):
    """Weights of a mixture of experts: the whole router, and this shard's experts."""

    w_router_ED: Any
    bias_E: Any
    experts: ExpertWeights


class DecoderWeights(NamedTuple):
    """Weights of one decoder layer."""

    attention_norm_D: Any
    attention: AttentionWeights
    feed_forward_norm_D: Any
    feed_forward: DenseWeights | MoEWeights


class ModelWeights(NamedTuple):
    """Weights of the whole model, without MTP.

    `expert_ids` are the checkpoint's ids of all experts in the routers; `shard_spec` tells which of
    these experts, and which heads, this shard holds.
    """

    embedding_VD: Any
    layers: tuple[DecoderWeights, ...]
    final_norm_D: Any
    w_logits_VD: Any
    expert_ids: tuple[int, ...]
    shard_spec: ShardSpec = UNSHARDED


def nbytes(weights: Any) -> int:
    """Return the bytes of all arrays of a pytree, as stored."""
    return sum(int(array.nbytes) for array in tree_arrays(weights).values())


def fingerprint(weights: ModelWeights) -> str:
    """Return a digest that tells checkpoints apart, of weights that every rank holds whole."""
    digest = hashlib.blake2b(repr(weights.expert_ids).encode(), digest_size=8)
    digest.update(weights.final_norm_D.tobytes())
    for layer in weights.layers:
        digest.update(layer.attention_norm_D.tobytes())
        digest.update(layer.feed_forward_norm_D.tobytes())
        if isinstance(layer.feed_forward, MoEWeights):
            digest.update(layer.feed_forward.bias_E.tobytes())
    return digest.hexdigest()
