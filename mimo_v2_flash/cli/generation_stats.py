"""What is taken down while a model writes: when, which experts had a say, what ranks exchanged."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.dispatch_stats import DispatchStatsBackend
from mimo_v2_flash.layers.hooks import HookCall, HookedLayers

from .parallel_options import RankSetup

__all__ = ["GenerationStats"]


class GenerationStats(NumpyBackend):
    """A backend: NumPy, of whose run one rank takes notes.

    Parameters
    ----------
    config
        The model.
    shared
        The ranks that it runs on.

    Attributes
    ----------
    times
        Seconds: the start, every token, the end.
    exchanges
        What went to the experts and back.
    watching
        Whether a model runs here, so that its experts are seen.
    """

    def __init__(self, config: MiMoConfig, setup: RankSetup) -> None:
        self.setup = setup
        self.times: list[float] = []
        self.is_eager = False
        self.exchanges = DispatchStatsBackend()
        self._first = setup.shard_spec.expert_range(config.n_routed_experts).start
        self._counts = [spec.num_experts for spec in config.layers]
        self._touched_LE = np.zeros((len(self._counts), config.n_routed_experts), np.int64)
        self._hooked = HookedLayers(len(self._counts), self._listen)

    def begin(self) -> None:
        """Forget what was, and start the clock."""
        self._touched_LE[:] = 0
        self.exchanges.reset()
        self.times = [time.perf_counter()]

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, of which notes are taken if it is a layer."""
        self.is_eager = True
        if not isinstance(function, DecoderLayer):
            return function
        return self.exchanges.wrap_layer(self._hooked.compile(function))

    def experts_touched(self) -> tuple[int, int]:
        """Return how many experts of all layers answered a token on any rank, and of how many."""
        touched_LE = self.setup.group.all_reduce(self._touched_LE)
        return int(np.count_nonzero(touched_LE)), sum(self._counts)

    def total(self, count: int) -> int:
        """Return the sum of what the ranks count, each by itself."""
        return int(self.setup.group.all_reduce(np.array([count]))[0])

    def _listen(self, call: HookCall) -> None:
        if call.part == "experts":
            expert_NA, w_gate_eFD = call.args[2:4]
            here = expert_NA[(expert_NA >= 0) & (expert_NA < len(w_gate_eFD))]
            self._touched_LE[call.layer, self._first + here] += 1
