"""The stack of decoder layers: every distinct layer compiled once, all run in turn."""

from typing import Any

import numpy as np

from mimo_v2_flash.backends import Backend
from mimo_v2_flash.cache import HybridCache, rows_of_step
from mimo_v2_flash.config import AttentionSpec, LayerSpec
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.weights.records import DecoderWeights

from .attention import Step
from .decoder import Decoder
from .ranks import Ranks

__all__ = ["Stack"]


class Stack:
    """All layers of a model, as programs of a backend.

    Parameters
    ----------
    specs
        The layers, first to last; equal ones share a program.
    backend
        Where they run.
    ranks
        Those that heads, experts and rows are split over.
    """

    def __init__(self, specs: tuple[LayerSpec, ...], backend: Backend, ranks: Ranks) -> None:
        programs = {
            spec: backend.compile(Decoder.build(spec, ranks.heads, ranks.experts))
            for spec in set(specs)
        }
        self._layers, self._ranks = [(spec, programs[spec]) for spec in specs], ranks
        self._tables: dict[tuple[int, float], tuple[np.ndarray, np.ndarray]] = {}

    def __call__(
        self,
        x_BTD: Any,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: tuple[DecoderWeights, ...],
        *,
        max_step: int,
    ) -> Any:
        """Return the stream after the last layer, and write the tokens into `cache`.

        `x_BTD` is of the rows that are here, `position_BT` of all. A step of more than `max_step`
        tokens runs as consecutive ones.
        """
        parts = [
            self._step(x_BTD[:, start:end], position_BT[:, start:end], cache, weights)
            for start in range(0, position_BT.shape[1], max_step)
            for end in [start + max_step]
        ]
        return np.concatenate(parts, axis=1)

    def _step(
        self,
        x_BTD: Any,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: tuple[DecoderWeights, ...],
    ) -> Any:
        cache.begin(position_BT)
        exchange, own = self._ranks.way(position_BT)
        here_BT = position_BT[cache.rows]
        length = int(np.max(np.sum(here_BT >= 0, axis=1), initial=0))  # the rest is padding
        y_BTD = x_BTD[:, :length]
        if own:
            way = {"exchange": exchange, "own": own}
            y_BTD = self._run(y_BTD, here_BT[:, :length], cache, weights, **way)
        cache.finish(position_BT)
        return np.concatenate([y_BTD, x_BTD[:, length:]], axis=1)

    def _run(
        self,
        x_BTD: Any,
        position_BT: np.ndarray,
        cache: HybridCache,
        weights: tuple[DecoderWeights, ...],
        **way: Any,
    ) -> Any:
        start = int(np.max(position_BT[:, :1], initial=0))
        row_BT_of = {slots: rows_of_step(position_BT, slots) for slots in set(cache.slots)}
        places = zip(cache.slots, cache.layers, weights, strict=True)
        for (spec, program), (slots, kv, layer_weights) in zip(self._layers, places, strict=True):
            table = self._table(cache.max_length, spec.attention)
            step = Step(position_BT, row_BT_of[slots], *table)
            static = {"filled": min(start, slots), **way}
            x_BTD = program(x_BTD, step, self._ranks.number, kv, layer_weights, **static)
        return x_BTD

    def _table(self, length: int, spec: AttentionSpec) -> tuple[np.ndarray, np.ndarray]:
        """Return (cos_LR, sin_LR) for `length` positions or more; the longest one is kept."""
        key = (spec.rotary_dim, spec.rope_theta)
        if key not in self._tables or len(self._tables[key][0]) < length:
            self._tables[key] = rope_table(
                length=length, rotary_dim=spec.rotary_dim, theta=spec.rope_theta
            )
        return self._tables[key]
