"""The model's weights as pytrees: the names, axes and order of every layer's arrays.

A matrix is `[out, in]`: a float32 or bfloat16 array, or a `QuantizedTensor`; everything else is
float32.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.execution.pytree import tree_arrays, tree_leaves
from mimo_v2_flash.parallel_config import UNSHARDED, ShardSpec
from mimo_v2_flash.quantization import QuantizedTensor

__all__ = [
    "AttentionWeights",
    "DecoderWeights",
    "DenseWeights",
    "ExpertWeights",
    "MTPWeights",
    "MoEWeights",
    "ModelWeights",
    "fingerprint",
    "nbytes",
]

WHOLE = (
    "embedding_VD",
    "norm_D",
    "w_eh_DI",
    "w_router_ED",
    "bias_E",
)  # of what no rank has a slice
SAMPLE = 1024  # elements: 4 kB of float32


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


class MTPWeights(NamedTuple):
    """Weights of one multi-token-prediction head; embedding and LM head are the model's.

    `w_eh_DI` has an input for each channel of the embedding, then of the hidden state.
    """

    embedding_norm_D: Any
    hidden_norm_D: Any
    w_eh_DI: Any
    layer: DecoderWeights
    final_norm_D: Any


class ModelWeights(NamedTuple):
    """Weights of the whole model.

    `mtp` are the MTP heads, as many as the checkpoint has. `expert_ids` are the checkpoint's ids of
    all experts in the routers; `shard_spec` tells which of these experts, and which heads, this
    shard holds. `prepared` is the dtype and the target that prepared weights were converted to.
    """

    embedding_VD: Any
    layers: tuple[DecoderWeights, ...]
    final_norm_D: Any
    w_logits_VD: Any
    expert_ids: tuple[int, ...]
    shard_spec: ShardSpec = UNSHARDED
    prepared: tuple[str, str] | None = None
    mtp: tuple[MTPWeights, ...] = ()


def nbytes(weights: Any) -> int:
    """Return the bytes of all arrays of a pytree, as stored."""
    return sum(int(array.nbytes) for array in tree_arrays(weights).values())


def fingerprint(weights: ModelWeights) -> dict[str, tuple[Any, str]]:
    """Return digests of a shard's weights: each with the slice that it is of, None for all ranks.

    Ranks with the same slice have the same digest. "weights" is of what every rank holds whole and
    of the dtypes of all weights but experts; "heads" and "experts" are of a rank's slices. A digest
    has each tensor's dtype and shape, and up to 4 kB from its middle: one or two pages, so that
    mapped files stay on disk. Of a layer's experts it is the middle one's. MiMo: 577 tensors, 1 MB
    of 312 GB.
    """
    shard, digests = weights.shard_spec, {name: _digest() for name in ("weights", "heads")}
    digests["experts"] = _digest()
    digests["weights"].update(repr((weights.expert_ids, weights.prepared)).encode())
    for path, leaf in tree_leaves(weights, leaf=(QuantizedTensor, ExpertWeights)).items():
        if isinstance(leaf, ExpertWeights):
            for w in leaf[len(leaf) // 2]:
                digests["experts"].update(_sample(w))
        elif hasattr(leaf, "shape"):
            is_whole = any(name in path for name in WHOLE)
            digests["weights" if is_whole else "heads"].update(_sample(leaf))
            digests["weights"].update(f"{path} {_stored_dtype(leaf)}".encode())
    slices = {
        "weights": None,
        "heads": (shard.tensor_parallel_rank, shard.tensor_parallel_size),
        "experts": (shard.expert_parallel_rank, shard.expert_parallel_size),
    }
    return {name: (slices[name], digest.hexdigest()) for name, digest in digests.items()}


def _digest() -> Any:
    return hashlib.blake2b(digest_size=8)


def _stored_dtype(weight: Any) -> str:
    return getattr(weight, "format", None) or str(weight.dtype)


def _sample(weight: Any) -> bytes:
    """Return dtype and shape of a weight, and bytes from its middle; scales stay unread (0020)."""
    array = weight
    if isinstance(weight, QuantizedTensor):
        array = getattr(weight, weight.tensors[0].field)
    part = np.zeros(0)
    if min(array.shape, default=0):  # a rank may have no token of the vocabulary
        part = np.asarray(array[tuple(length // 2 for length in array.shape[:-1])])
    start = max(0, (len(part) - SAMPLE) // 2)
    content = np.ascontiguousarray(part[start : start + SAMPLE]).tobytes()
    return f"{_stored_dtype(weight)} {weight.shape} ".encode() + content
