"""Protocols of process groups: `Group` for kernels and layers, `HostGroup` for host code."""

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Group", "HostGroup"]


class Group(Protocol):
    """Process group of ranks 0 to size - 1 that run the same program on different data.

    Every rank calls the same collectives in the same order, with equal shapes and dtypes. A traced
    program has these collectives only; its rank is data.
    """

    @property
    def size(self) -> int:
        """Number of ranks, P."""

    def all_to_all(self, x_PMD: Any) -> Any:
        """Send row p to rank p; return the rows received, in rank order."""

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order: `x_PND`."""

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Send row p to rank p; return the sum of the rows received: `x_ND`."""

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, added in rank order."""


class HostGroup(Group, Protocol):
    """Process group on hosts, where a rank knows its number and shapes may depend on data."""

    @property
    def rank(self) -> int:
        """Number of this rank."""

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Send the next count_P[p] rows to rank p; return (rows received, their counts) by rank.

        Any count may be 0, but a row has at least one number. The ranks agree on dtype and on
        every axis but the first.

        Raises
        ------
        ValueError
            If `count_P` does not have one count for every rank, or does not sum to N.
        """

    def broadcast(self, message: bytes) -> bytes:
        """Return rank 0's `message`; that of other ranks counts nothing.

        A rank may wait for it as long as rank 0 has nothing to send.
        """

    def abort(self, error: BaseException) -> None:
        """Let every collective of the run raise, on all ranks: this rank cannot go on.

        It is for a rank that survives its error while others are in a collective. An error that
        leaves a rank's program does the same by itself.
        """

    def split(self, ranks: Sequence[int]) -> "HostGroup":
        """Return the subgroup whose rank i is rank `ranks[i]` of this group.

        All of `ranks`, and no other rank, make this call with the same `ranks`.

        Raises
        ------
        ValueError
            If `ranks` are not distinct ranks of this group, this one among them.
        """
