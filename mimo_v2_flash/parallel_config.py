"""Who owns what when ranks share a model: experts, heads, rows of the batch.

World = data_parallel x tensor_parallel ranks; rank = data x tensor_parallel + tensor, so that the
ranks that share heads are neighbours. Experts lie evenly on runs of `expert_parallel` neighbours,
each run with a full set. Neither split asks anything of the other.

Source: Megatron-LM, arXiv:1909.08053, section 3 (heads and the dense network); GShard,
arXiv:2006.16668, section 3.2 (experts). MiMo on 32 ranks: 8 experts each.
"""

from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

from .config import LayerSpec, MiMoConfig

__all__ = ["WHOLE", "Plan", "Share", "shares_of"]


class Share(NamedTuple):
    """What weights a rank has: its heads, its experts, and all that is not split.

    The dense network and the vocabulary of the head are split as heads are.
    """

    tensor_rank: int
    tensor_parallel: int
    expert_rank: int
    expert_parallel: int

    def part(self, count: int) -> range:
        """Return which of `count` heads, channels or words are here."""
        return _part(count, self.tensor_rank, self.tensor_parallel)

    def keys(self, count: int) -> range:
        """Return which of `count` KV heads are here; where ranks are more, some have the same."""
        first = count * self.tensor_rank // self.tensor_parallel
        return range(first, first + max(1, count // self.tensor_parallel))

    def experts(self, count: int) -> range:
        """Return which of `count` experts are here."""
        return _part(count, self.expert_rank, self.expert_parallel)

    def layer(self, spec: LayerSpec) -> LayerSpec:
        """Return `spec` with the heads, and the dense channels, that are here."""
        attention = replace(
            spec.attention,
            heads=len(self.part(spec.attention.heads)),
            kv_heads=len(self.keys(spec.attention.kv_heads)),
        )
        width = spec.feed_forward if spec.experts else len(self.part(spec.feed_forward))
        return replace(spec, attention=attention, feed_forward=width)


WHOLE = Share(0, 1, 0, 1)


def shares_of(expert_parallel: int, tensor_parallel: int) -> list[Share]:
    """Return the different shares of such a split: rank r has the one at r mod their number."""
    P, T = expert_parallel, tensor_parallel
    return [Share(rank % T, T, rank % P, P) for rank in range(lcm(P, T))]


@dataclass(frozen=True)
class Plan:
    """How a model is split over ranks.

    Parameters
    ----------
    expert_parallel : int, optional
        Ranks that share a set of experts; all of the world if not given.
    tensor_parallel : int
        Ranks that share the heads, the dense network and the vocabulary of the head. Where they
        are more than KV heads, neighbours have the same KV head.
    data_parallel : int
        Shares of the batch, each of some rows.

    Raises
    ------
    ValueError
        A number is not at least 1, or the world is no multiple of `expert_parallel`.
    """

    expert_parallel: int | None = None
    tensor_parallel: int = 1
    data_parallel: int = 1

    def __post_init__(self) -> None:
        """Refuse an impossible plan."""
        for name in ("tensor_parallel", "expert_parallel", "data_parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: allowed is an integer above 0")
        if self.world % self.expert_share:
            raise ValueError(
                f"expert_parallel = {self.expert_parallel}: allowed is a divisor of the "
                f"{self.world} ranks (data_parallel {self.data_parallel} x tensor_parallel "
                f"{self.tensor_parallel})"
            )

    @classmethod
    def of_devices(cls, config: MiMoConfig) -> "Plan":
        """Return the plan that `num_devices` of a config stands for: experts and rows split."""
        return cls(data_parallel=config.num_devices)

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self.data_parallel * self.tensor_parallel

    @property
    def expert_share(self) -> int:
        """Ranks that share a set of experts."""
        return self.expert_parallel or self.world

    def check(self, config: MiMoConfig) -> None:
        """Raise ValueError, naming field and values, if `config` cannot be split so."""
        T, P = self.tensor_parallel, self.expert_share
        for spec in sorted(set(config.layers), key=repr):
            H, K = spec.attention.heads, spec.attention.kv_heads
            if H % T or (K % T and T % K):
                raise ValueError(
                    f"tensor_parallel = {T}: allowed is a divisor of {H} query heads that "
                    f"divides {K} KV heads or is a multiple of them"
                )
            if spec.experts and spec.experts % P:
                raise ValueError(f"expert_parallel = {P}: {spec.experts} experts are no multiple")
            if not spec.experts and spec.feed_forward % T:
                raise ValueError(
                    f"tensor_parallel = {T}: the dense width of {spec.feed_forward} is no multiple"
                )

    def share(self, rank: int) -> Share:
        """Return what weights `rank` has."""
        T, P = self.tensor_parallel, self.expert_share
        return Share(rank % T, T, rank % P, P)

    def tensor_group(self, rank: int) -> range:
        """Return the ranks that share heads with `rank`, and have the same rows."""
        return _neighbours(rank, self.tensor_parallel)

    def expert_group(self, rank: int) -> range:
        """Return the ranks that share a set of experts with `rank`."""
        return _neighbours(rank, self.expert_share)

    def rows(self, rank: int, batch_size: int) -> range:
        """Return the rows of the batch that `rank` has; fewer rows than shares leave some none."""
        return _part(batch_size, rank // self.tensor_parallel, self.data_parallel)


def _part(count: int, index: int, parts: int) -> range:
    return range(count * index // parts, count * (index + 1) // parts)


def _neighbours(rank: int, size: int) -> range:
    return range(rank - rank % size, rank - rank % size + size)
