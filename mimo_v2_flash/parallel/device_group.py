"""Ranks as devices: exchanges that are instructions of a traced program, nkipy's collectives.

Source: nkipy, `core/ops/collectives.py`; its all_to_all forgets the axis of concatenation, so that
every exchange here is along the first axis.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DeviceGroup"]


@dataclass(frozen=True)
class DeviceGroup:
    """A group of a traced program, which is one for all ranks: each finds itself in its own part.

    Parameters
    ----------
    parts
        The ranks of the world, in groups of equal size.
    """

    replica_groups: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """How many ranks each part has."""
        return len(self.replica_groups[0])

    def all_to_all(self, x_PMD: Any) -> Any:
        """Give row p to rank p; return the rows that the ranks gave us, in rank order."""
        return self._exchange("all_to_all", x_PMD, 0, 0)

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return self._exchange("all_gather", np.expand_dims(x_ND, 0), 0)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Give row p to rank p; return the sum of the rows that the ranks gave us."""
        return self._exchange("reduce_scatter", x_PND, 0)[0]

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, in an order that the devices choose."""
        return self._exchange("all_reduce", x)

    def _exchange(self, name: str, x: Any, *axes: int) -> Any:
        collectives = importlib.import_module("nkipy.distributed.collectives")
        return getattr(collectives, name)(x, *axes, [list(part) for part in self.replica_groups])
