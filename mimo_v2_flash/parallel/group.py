"""What kernels, layers and host code know of their peers: how many, who we are, the exchanges."""

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Group", "HostGroup"]


class Group(Protocol):
    """Ranks 0..size-1 that run the same program on their own shares.

    Every rank calls the same exchanges in the same order, with equal shapes and dtypes. A traced
    program has these alone; its rank is data.
    """

    @property
    def size(self) -> int:
        """How many ranks, P."""

    def all_to_all(self, x_PMD: Any) -> Any:
        """Give row p to rank p; return the rows that the ranks gave us, in rank order."""

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order: `x_PND`."""

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Give row p to rank p; return the sum of the rows that the ranks gave us: `x_ND`."""

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order."""


class HostGroup(Group, Protocol):
    """A group of ranks on hosts, where a rank knows its number and shapes may follow the data."""

    @property
    def rank(self) -> int:
        """Which of the ranks we are."""

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Give the next count_P[p] rows to rank p; return (rows, their counts) by rank.

        Any count may be 0, but a row has at least one number. The ranks agree on dtype and on
        every axis but the first.

        Raises
        ------
        ValueError
            If `count_P` has not a count for every rank, or does not sum to N.
        """

    def split(self, ranks: Sequence[int]) -> "HostGroup":
        """Return the group whose rank i is our rank `ranks[i]`.

        All of `ranks`, and nobody else, make this call with the same `ranks`.

        Raises
        ------
        ValueError
            If `ranks` are not distinct ranks of this group, this one among them.
        """
