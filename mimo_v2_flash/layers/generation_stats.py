"""Statistics of a run beside those of the engine: experts that were used, and expert dispatch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.parallel import HostGroup
from mimo_v2_flash.parallel_config import ParallelConfig

from .decoder import DecoderLayer
from .dispatch_stats import DispatchStatsBackend
from .hooks import HookCall, HookedLayers

__all__ = ["GenerationStats"]


class GenerationStats(NumpyBackend):
    """A NumPy backend that records statistics of one rank's run.

    Parameters
    ----------
    config
        Config of the model.
    group
        Process group of the ranks that share the model.
    plan
        How the model is split over the group.

    Attributes
    ----------
    dispatch
        Statistics of the expert dispatchers.
    is_eager
        Whether a model runs on this backend, so that its experts are counted.
    """

    def __init__(self, config: MiMoConfig, group: HostGroup, plan: ParallelConfig) -> None:
        self.group = group
        self.is_eager = False
        self.dispatch = DispatchStatsBackend()
        shard_spec = plan.shard_spec(group.rank)
        self._first_expert = shard_spec.expert_range(config.n_routed_experts).start
        self._experts_per_layer = [spec.num_experts for spec in config.layers]
        self._touched_LE = np.zeros((len(config.layers), config.n_routed_experts), np.int64)
        self._hooked = HookedLayers(self._count_experts)

    def begin(self) -> None:
        """Discard all statistics."""
        self._touched_LE[:] = 0
        self.dispatch.reset()

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return `function`; a decoder layer is wrapped so that its calls are counted."""
        self.is_eager = True
        hooked = self._hooked.compile(function)
        return self.dispatch.wrap_layer(hooked) if isinstance(function, DecoderLayer) else hooked

    def experts_touched(self) -> tuple[int, int]:
        """Return how many experts of all layers computed a token on any rank, and of how many."""
        touched_LE = self.group.all_reduce(self._touched_LE)
        return int(np.count_nonzero(touched_LE)), sum(self._experts_per_layer)

    def total(self, count: int) -> int:
        """Return the sum of `count` over all ranks; a collective call."""
        return int(self.group.all_reduce(np.array([count]))[0])

    def _count_experts(self, call: HookCall) -> None:
        if call.part == "experts":
            expert_NA, experts = call.args[2:4]
            local = expert_NA[(expert_NA >= 0) & (expert_NA < len(experts))]
            self._touched_LE[call.layer, self._first_expert + local] += 1
