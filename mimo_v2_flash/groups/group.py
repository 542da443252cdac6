"""What kernels and layers know of their peers: how many, and four exchanges."""

from typing import Any, Protocol

__all__ = ["Group"]


class Group(Protocol):
    """Ranks 0..size-1 that run the same program on their own shares.

    Every rank calls the same exchanges in the same order, with equal shapes and dtypes.
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

    def all_sum(self, x: Any) -> Any:
        """Return the sum of every rank's `x`."""
