"""Tiny models with one bad number, and caches."""

from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ExpertWeights
from mimo_v2_flash.kv_cache import HybridCache
from tests.support.tiny import Tiny

BAD_TOKEN = 11


def poisoned(
    model: Tiny,
    weight: str,
    *,
    layer: int | None = None,
    expert: int | None = None,
    token: int = BAD_TOKEN,
    value: float = np.nan,
) -> Tiny:
    """Return `model` with `value` in a weight: the embedding of `token`, or a field of a record."""
    weights = model.weights
    if weight == "embedding":
        weights = weights._replace(embedding_VD=_bad(weights.embedding_VD, token, value))
    elif layer is None:
        weights = weights._replace(**{weight: _bad(getattr(weights, weight), -1, value)})
    else:
        layers = list(weights.layers)
        layers[layer] = _poisoned_layer(layers[layer], weight, expert, value)
        weights = weights._replace(layers=tuple(layers))
    return model._replace(weights=weights)


def _poisoned_layer(layer: Any, weight: str, expert: int | None, value: float) -> Any:
    if weight == "experts":
        mixture = layer.feed_forward
        experts = [
            w if e != expert else w._replace(w_down_DF=_bad(w.w_down_DF, -1, value))
            for e, w in enumerate(mixture.experts)
        ]
        return layer._replace(feed_forward=mixture._replace(experts=ExpertWeights.of(experts)))
    for name in ("attention", "feed_forward"):
        record = getattr(layer, name)
        if hasattr(record, weight):
            bad = record._replace(**{weight: _bad(getattr(record, weight), -1, value)})
            return layer._replace(**{name: bad})
    return layer._replace(**{weight: _bad(getattr(layer, weight), -1, value)})


def _bad(w: np.ndarray, row: int, value: float) -> np.ndarray:
    bad = np.array(w)
    bad[row] = value
    return bad


def poisoned_cache(
    cache: HybridCache, layer: int, tensor: str, *, row: int, position: int, value: float
) -> None:
    """Write `value` where a layer's cache holds `position` of sequence `row`."""
    slots = cache.slots[layer]
    getattr(cache.layers[layer], tensor)[row * slots + position % slots, 0, 0] = value
