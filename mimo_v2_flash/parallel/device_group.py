"""Process group of a traced program: collectives are device instructions, those of nkipy.

Source: nkipy, `core/ops/collectives.py`. Its all_to_all ignores the axis of concatenation, so
every collective here works along the first axis.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["DeviceGroup"]


@dataclass(frozen=True)
class DeviceGroup:
    """Process group inside a traced program, which is the same program on every rank.

    Parameters
    ----------
    replica_groups
        All ranks of the world, in groups of equal size. A rank communicates with the group that
        contains it.
    """

    replica_groups: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """Number of ranks of each replica group."""
        return len(self.replica_groups[0])

    def all_to_all(self, x_PMD: Any) -> Any:
        """Send row p to rank p; return the rows received, in rank order."""
        return self._call("all_to_all", x_PMD, 0, 0)

    def all_gather(self, x_ND: Any) -> Any:
        """Return every rank's `x_ND`, stacked in rank order."""
        return self._call("all_gather", np.expand_dims(x_ND, 0), 0)

    def reduce_scatter(self, x_PND: Any) -> Any:
        """Send row p to rank p; return the sum of the rows received."""
        return self._call("reduce_scatter", x_PND, 0)[0]

    def all_reduce(self, x: Any) -> Any:
        """Return the sum of every rank's `x`, in an order that the devices choose."""
        return self._call("all_reduce", x)

    def _call(self, name: str, x: Any, *axes: int) -> Any:
        collectives = importlib.import_module("nkipy.distributed.collectives")
        return getattr(collectives, name)(x, *axes, [list(ranks) for ranks in self.replica_groups])
