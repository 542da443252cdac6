"""Parallel context of one rank: its process groups, its weight shard, its part of a step."""

from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights, fingerprint
from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.inputs import as_layers_per_program
from mimo_v2_flash.kernels.moe_block import Dispatcher
from mimo_v2_flash.parallel import ALONE, HostGroup, check_consistent, check_replicas
from mimo_v2_flash.parallel_config import ParallelConfig

from .eager_dispatchers import DISPATCHERS, MoEStepShape
from .execution_mode import EXECUTION_MODES, ExecutionMode
from .feed_forward import RankIds

__all__ = ["ParallelContext"]


class ParallelContext:
    """One rank's groups and shard under a `ParallelConfig`, like Megatron's `parallel_state`.

    The constructor is a collective: every rank must call it.

    Parameters
    ----------
    parallel_config
        How weights and batch are split over the ranks.
    world_group
        The group of all ranks.
    dispatcher
        A key of `eager_dispatchers.DISPATCHERS`, the MoE dispatcher; by the size of a step if None.
    mode
        The execution mode of the layers.
    layers_per_program
        The most layers of a program, if the mode has programs; by the mode if None.

    Attributes
    ----------
    parallel_config, world_group, dispatcher, mode, layers_per_program
        The parameters of these names.
    device_world_group
        The group of all ranks, as programs know it; `ALONE` in eager mode.
    shard_spec
        The weights that this rank holds.
    tensor_group, expert_group
        The groups of this rank that heads and experts are split over.
    overflow_group
        The group over which the expert groups' overflow counts are summed.
    rank_ids
        This rank's numbers in the tensor and the expert group, as tensors.

    Raises
    ------
    ValueError
        If the world size is not the parallel config's, the dispatcher or the number of layers is
        not allowed, or ranks differ.
    """

    def __init__(
        self,
        parallel_config: ParallelConfig,
        world_group: HostGroup,
        dispatcher: str | None = None,
        mode: ExecutionMode = EXECUTION_MODES["eager"],
        layers_per_program: int | None = None,
    ) -> None:
        if parallel_config.world_size != world_group.size:
            raise ValueError(
                f"world size mismatch: the parallel config has {parallel_config.world_size} "
                f"ranks, the process group has {world_group.size}"
            )
        if dispatcher not in (None, *DISPATCHERS):
            raise ValueError(f"exchange {dispatcher!r}: allowed is {' or '.join(DISPATCHERS)}")
        self.parallel_config, self.world_group = parallel_config, world_group
        self.mode, self.dispatcher = mode, dispatcher
        self.layers_per_program = as_layers_per_program(
            layers_per_program, compiles=mode.pads_steps
        )
        self.check_consistent(
            plan=parallel_config,
            exchange=dispatcher,
            execution_mode=type(mode).__name__,
            layers_per_program=layers_per_program,
        )
        self.shard_spec = parallel_config.shard_spec(world_group.rank)
        self.tensor_group = mode.build_group(world_group, parallel_config.tensor_group_ranks)
        self.expert_group = mode.build_group(world_group, parallel_config.expert_group_ranks)
        ranks = self.shard_spec.tensor_parallel_rank, self.shard_spec.expert_parallel_rank
        self.rank_ids = RankIds(*(np.array([rank], np.int32) for rank in ranks))
        self.device_world_group = mode.build_overflow_group(world_group)
        is_split = parallel_config.expert_parallel_size < world_group.size
        self.overflow_group = self.device_world_group if is_split else ALONE

    def check_consistent(self, **values: Any) -> None:
        """Raise ValueError, naming the value and the ranks, if ranks pass different values."""
        if self.world_group.size > 1:
            comparable = {name: _comparable(value) for name, value in values.items()}
            check_consistent(self.world_group, **comparable)

    def check_same_weights(self, weights: ModelWeights) -> None:
        """Raise ValueError, naming the ranks, if ranks hold shards of different weights."""
        if self.world_group.size > 1:
            check_replicas(self.world_group, **fingerprint(weights))

    @property
    def data_parallel_rank(self) -> int:
        """Number of the part of the batch that this rank has."""
        return self.data_parallel_rank_of(self.world_group.rank)

    def data_parallel_rank_of(self, rank: int) -> int:
        """Return the number of the part of the batch that a rank has."""
        return rank // self.parallel_config.tensor_parallel_size

    def rank_rows(self, batch_size: int) -> tuple[slice, ...]:
        """Return the rows of the batch of each data-parallel rank."""
        T, ranks = self.parallel_config.tensor_parallel_size, range(self.parallel_config.world_size)
        rows = (self.parallel_config.batch_range(rank, batch_size) for rank in ranks[::T])
        return tuple(slice(part.start, part.stop) for part in rows)

    def dispatchers(self, spec: LayerSpec, tokens: int, longest: int) -> tuple[Dispatcher, ...]:
        """Return the dispatchers of a pass in a layer: `ExecutionMode.dispatchers`.

        `tokens` are those of all ranks, `longest` the most tokens of any data-parallel rank.

        Parameters
        ----------
        spec : LayerSpec
            Numbers of the layer.
        tokens : int
            Tokens of all ranks.
        longest : int
            The most tokens of a data-parallel rank.
        """
        shape = MoEStepShape(
            tokens,
            -(-longest // self.parallel_config.tensor_parallel_size),
            self.parallel_config.expert_parallel_size,
            spec.num_experts,
            spec.experts_per_token,
        )
        return self.mode.dispatchers(self.dispatcher, shape)


def _comparable(value: Any) -> Any:
    """Return `value`, or the shape and values of an array, whose `repr` may be abbreviated."""
    return (value.shape, value.tolist()) if isinstance(value, np.ndarray) else value
