"""Process group of a single rank: no communication, every collective returns its input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .consistency import check_counts, check_ranks

__all__ = ["ALONE", "SoloGroup"]


@dataclass(frozen=True)
class SoloGroup:
    """Process group of a single rank."""

    size: int = 1
    rank: int = 0

    def all_to_all(self, x_PMD: Any) -> Any:
        """Return `x_PMD`."""
        return x_PMD

    def all_gather(self, x_ND: Any) -> Any:
        """Return `x_ND` as the only row."""
        return np.expand_dims(x_ND, 0)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Return the only row."""
        return x_PND[0]

    def all_reduce(self, x: Any) -> Any:
        """Return `x`."""
        return x

    def ragged_all_to_all(self, x_ND: Any, count_P: Any) -> tuple[Any, Any]:
        """Return `x_ND` and its count."""
        return x_ND, np.array(check_counts(x_ND, count_P, 1))

    def broadcast(self, message: bytes) -> bytes:
        """Return `message`."""
        return message

    def abort(self, error: BaseException) -> None:
        """Do nothing: no rank waits."""

    def split(self, ranks: Sequence[int]) -> "SoloGroup":
        """Return this group."""
        check_ranks(ranks, self)
        return self


ALONE = SoloGroup()
