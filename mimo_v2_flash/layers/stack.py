"""The stack of decoder layers: every distinct layer compiled once, all run in turn."""

from typing import Any

import numpy as np

from mimo_v2_flash.backends import Backend
from mimo_v2_flash.cache import HybridCache, rows_of_step
from mimo_v2_flash.config import AttentionSpec, LayerSpec
from mimo_v2_flash.groups import Group
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.weights.records import DecoderWeights

from .attention import Step
from .decoder import Decoder

__all__ = ["Stack"]


class Stack:
    """All layers of a model, as programs of a backend.

    Parameters
    ----------
    specs
        The layers, first to last; equal ones share a program.
    backend
        Where they run.
    heads, experts
        The ranks that heads and experts are split over.
    """

    def __init__(
        self, specs: tuple[LayerSpec, ...], backend: Backend, heads: Group, experts: Group
    ) -> None:
        programs = {
            spec: backend.compile(Decoder.build(spec, heads, experts)) for spec in set(specs)
        }
        self._layers = [(spec, programs[spec]) for spec in specs]
        self._tables: dict[tuple[int, float], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self,
        x_BTD: Any,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: tuple[DecoderWeights, ...],
    ) -> Any:
        """Return the stream after the last layer, and write the step's tokens into `cache`."""
        cache.begin(position_BT)
        start, rank_1 = max(0, int(np.max(position_BT[:, 0]))), np.zeros(1, np.int32)
        row_BT_of = {slots: rows_of_step(position_BT, slots) for slots in set(cache.slots)}
        places = zip(cache.slots, cache.layers, weights, strict=True)
        for (spec, program), (slots, kv, layer_weights) in zip(self._layers, places, strict=True):
            table = self._table(cache.max_length, spec.attention)
            step = Step(position_BT, row_BT_of[slots], *table)
            x_BTD = program(x_BTD, step, rank_1, kv, layer_weights, filled=min(start, slots))
        cache.finish(position_BT)
        return x_BTD

    def _table(self, length: int, spec: AttentionSpec) -> tuple[np.ndarray, np.ndarray]:
        """Return (cos_LR, sin_LR) for `length` positions or more; the longest one is kept."""
        key = (spec.rotary_dim, spec.rope_theta)
        if key not in self._tables or len(self._tables[key][0]) < length:
            self._tables[key] = rope_table(
                length=length, rotary_dim=spec.rotary_dim, theta=spec.rope_theta
            )
        return self._tables[key]
