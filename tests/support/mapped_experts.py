"""Experts of one or more layers in a mapped file, and a store over them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import (
    DecoderWeights,
    DenseWeights,
    ExpertWeights,
    ModelWeights,
    MoEWeights,
)
from mimo_v2_flash.expert_store import ExpertStore
from mimo_v2_flash.expert_store.eviction_policies import read_policy
from mimo_v2_flash.quantization import QuantizedTensor

__all__ = ["mapped_experts", "model_of", "store_of"]

GAP = 64  # bytes between arrays at most, in steps of an element


def mapped_experts(path: Path, experts: ExpertWeights, seed: int = 0) -> ExpertWeights:
    """Write the arrays of experts to a file, at any offsets; return the experts mapped from it."""
    random, content, begins = np.random.default_rng(seed), bytearray(), []
    for array in _arrays(experts):
        content += bytes(int(random.integers(0, GAP // 4)) * 4)
        content += bytes(-len(content) % array.itemsize)
        begins.append(len(content))
        content += np.ascontiguousarray(array).tobytes()
    path.write_bytes(bytes(content))
    data, places = np.asarray(np.memmap(path, np.uint8, mode="r")), iter(begins)

    def mapped(array: np.ndarray) -> np.ndarray:
        begin = next(places)
        return data[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)

    return ExpertWeights.of([_with(weight, mapped) for weight in record] for record in experts)


def model_of(layers: Sequence[ExpertWeights | None]) -> ModelWeights:
    """Return weights of a model with these experts and nothing else; None is a dense layer."""
    feeds: list[Any] = [
        DenseWeights(None, None, None) if experts is None else MoEWeights(None, None, experts)
        for experts in layers
    ]
    decoders = tuple(DecoderWeights(None, None, None, feed) for feed in feeds)  # type: ignore[arg-type]
    return ModelWeights(None, decoders, None, None, ())


def store_of(
    layers: Sequence[ExpertWeights | None], budget: int, policy: str = "lfu"
) -> ExpertStore:
    """Return a store of mapped experts."""
    return ExpertStore(model_of(layers), budget, read_policy(policy))


def _arrays(experts: ExpertWeights) -> list[np.ndarray]:
    return [array for record in experts for weight in record for array in _fields(weight)]


def _fields(weight: Any) -> list[np.ndarray]:
    is_stored = isinstance(weight, QuantizedTensor)
    return list(weight.stored_arrays().values()) if is_stored else [weight]


def _with(weight: Any, mapped: Any) -> Any:
    if not isinstance(weight, QuantizedTensor):
        return mapped(weight)
    return weight.with_arrays({name: mapped(a) for name, a in weight.stored_arrays().items()})
