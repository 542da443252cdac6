"""How a model is split over ranks: tensor parallelism, expert parallelism and data parallelism.

World size = data_parallel_size x tensor_parallel_size; rank = data_parallel_rank x
tensor_parallel_size + tensor_parallel_rank, so that a tensor-parallel group has consecutive ranks.
An expert-parallel group is `expert_parallel_size` consecutive ranks, which together hold all
experts, the same number on each. The two sizes do not constrain each other.

Source: Megatron-LM, arXiv:1909.08053, section 3 (heads and the dense network); GShard,
arXiv:2006.16668, section 3.2 (experts). MiMo on 32 ranks: 8 experts each.
"""

from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

from .config import LayerSpec, MiMoConfig
from .inputs import as_integer

__all__ = ["UNSHARDED", "ParallelConfig", "ShardSpec", "all_shard_specs"]

MAX_RANKS = 1 << 16  # many have a list of all ranks


class ShardSpec(NamedTuple):
    """The shard of the weights that a rank holds: its heads, its experts, and unsplit tensors.

    The dense feed-forward and the vocabulary of the LM head are split like attention heads.
    """

    tensor_parallel_rank: int
    tensor_parallel_size: int
    expert_parallel_rank: int
    expert_parallel_size: int

    def tensor_range(self, count: int) -> range:
        """Return which of `count` heads, channels or vocabulary entries the shard has."""
        return _even_part(count, self.tensor_parallel_rank, self.tensor_parallel_size)

    def kv_head_range(self, count: int) -> range:
        """Return which of `count` KV heads the shard has; more ranks than KV heads repeat them."""
        first = count * self.tensor_parallel_rank // self.tensor_parallel_size
        return range(first, first + max(1, count // self.tensor_parallel_size))

    def expert_range(self, count: int) -> range:
        """Return which of `count` experts the shard has."""
        return _even_part(count, self.expert_parallel_rank, self.expert_parallel_size)

    def local_layer(self, spec: LayerSpec) -> LayerSpec:
        """Return `spec` with the numbers of heads and dense channels of the shard."""
        attention = replace(
            spec.attention,
            num_heads=len(self.tensor_range(spec.attention.num_heads)),
            num_kv_heads=len(self.kv_head_range(spec.attention.num_kv_heads)),
        )
        width = spec.intermediate_size
        if not spec.num_experts:
            width = len(self.tensor_range(width))
        return replace(spec, attention=attention, intermediate_size=width)


UNSHARDED = ShardSpec(0, 1, 0, 1)


def all_shard_specs(expert_parallel_size: int, tensor_parallel_size: int) -> list[ShardSpec]:
    """Return the distinct shards of a split; rank r holds the one at r mod their number."""
    P, T = expert_parallel_size, tensor_parallel_size
    return [ShardSpec(rank % T, T, rank % P, P) for rank in range(lcm(P, T))]


@dataclass(frozen=True)
class ParallelConfig:
    """Sizes of expert, tensor and data parallelism, and what each rank of the world holds.

    Parameters
    ----------
    expert_parallel_size : int, optional
        Ranks that a set of experts is split over; all of the world if not given.
    tensor_parallel_size : int
        Ranks that the heads, the dense feed-forward and the vocabulary of the LM head are split
        over. If there are more ranks than KV heads, consecutive ranks repeat a KV head.
    data_parallel_size : int
        Parts of the batch, each of some rows.

    Raises
    ------
    ValueError
        A size is not at least 1, there are more than 65,536 ranks, or the world is no multiple of
        `expert_parallel_size`.
    """

    expert_parallel_size: int = None  # type: ignore[assignment]  # resolved at once, below
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1

    def __post_init__(self) -> None:
        """Resolve the default of `expert_parallel_size`, and validate the sizes."""
        for name in ("tensor_parallel_size", "expert_parallel_size", "data_parallel_size"):
            size = getattr(self, name)
            if size is not None and as_integer(name, size) < 1:
                raise ValueError(f"{name} = {size}: allowed is an integer above 0")
        if self.expert_parallel_size is None:
            object.__setattr__(self, "expert_parallel_size", self.world_size)
        if self.world_size > MAX_RANKS:
            raise ValueError(f"{self.world_size} ranks: allowed are at most {MAX_RANKS}")
        if self.world_size % self.expert_parallel_size:
            raise ValueError(
                f"expert_parallel_size = {self.expert_parallel_size}: allowed is a divisor of the "
                f"{self.world_size} ranks (data_parallel_size {self.data_parallel_size} x "
                f"tensor_parallel_size {self.tensor_parallel_size})"
            )

    @classmethod
    def from_num_devices(cls, config: MiMoConfig) -> "ParallelConfig":
        """Return `num_devices` of a config as expert and data parallelism."""
        return cls(data_parallel_size=config.num_devices)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.data_parallel_size * self.tensor_parallel_size

    def check(self, config: MiMoConfig) -> None:
        """Raise ValueError, naming field and values, if a model of `config` cannot be split so."""
        T, P = self.tensor_parallel_size, self.expert_parallel_size
        for spec in sorted(set(config.layers), key=repr):
            H, K = spec.attention.num_heads, spec.attention.num_kv_heads
            if H % T or (K % T and T % K):
                raise ValueError(
                    f"tensor_parallel_size = {T}: allowed is a divisor of {H} query heads that "
                    f"divides {K} KV heads or is a multiple of them"
                )
            if spec.num_experts and spec.num_experts % P:
                raise ValueError(
                    f"expert_parallel_size = {P}: allowed is a divisor of "
                    f"{spec.num_experts} experts"
                )
            if not spec.num_experts and spec.intermediate_size % T:
                raise ValueError(
                    f"tensor_parallel_size = {T}: allowed is a divisor of the dense width, "
                    f"{spec.intermediate_size}"
                )

    def shard_spec(self, rank: int) -> ShardSpec:
        """Return the shard of the weights that `rank` holds."""
        T, P = self.tensor_parallel_size, self.expert_parallel_size
        return ShardSpec(rank % T, T, rank % P, P)

    def tensor_group_ranks(self, rank: int) -> range:
        """Return the tensor-parallel group of `rank`: its ranks have the same rows of the batch."""
        return _group_of(rank, self.tensor_parallel_size)

    def expert_group_ranks(self, rank: int) -> range:
        """Return the expert-parallel group of `rank`: its ranks hold one full set of experts."""
        return _group_of(rank, self.expert_parallel_size)

    def batch_range(self, rank: int, batch_size: int) -> range:
        """Return the rows of the batch that `rank` has; none on some if there are few rows."""
        return _even_part(batch_size, rank // self.tensor_parallel_size, self.data_parallel_size)


def _even_part(count: int, index: int, parts: int) -> range:
    return range(count * index // parts, count * (index + 1) // parts)


def _group_of(rank: int, size: int) -> range:
    return range(rank - rank % size, rank - rank % size + size)
