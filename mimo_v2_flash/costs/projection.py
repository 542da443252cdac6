"""Roofline model of a program on Trainium2: seconds projected from its cost, never measured.

The bound assumes that memory and matmuls overlap, collectives overlap with nothing, and operations
have no overhead; the overhead of operations is a number of its own. Memory traffic is all inputs
that are read, all that is written, and temporaries that do not fit into SBUF. A matmul keeps its
smaller operand in the matrix unit, up to 128 rows at a time, and streams the larger one: one row
costs as much as 128.
"""

from typing import NamedTuple

from mimo_v2_flash.execution.collective_cost import collective_seconds
from mimo_v2_flash.execution.program_cost import Matmul, ProgramCost

from . import trainium2
from .lower_bound import LowerBound

__all__ = ["RooflineTime", "lower_bound_seconds", "roofline_time"]


class RooflineTime(NamedTuple):
    """Projected seconds of a program on one rank, by resource.

    Attributes
    ----------
    memory, matmuls, collectives
        Seconds of memory traffic, of the matrix unit, and of communication with other ranks.
    operations
        The least overhead of all operations, added up.
    """

    memory: float = 0.0
    matmuls: float = 0.0
    collectives: float = 0.0
    operations: float = 0.0

    @property
    def bound(self) -> float:
        """Seconds that the program takes at least."""
        return max(self.memory, self.matmuls) + self.collectives

    @property
    def with_operations(self) -> float:
        """The bound plus the overhead of every operation."""
        return self.bound + self.operations


def roofline_time(cost: ProgramCost) -> RooflineTime:
    """Return the projected seconds of a program of this cost."""
    spilled = (t.size + t.read for t in cost.temporaries if t.size > trainium2.SBUF)
    moved = sum(cost.read.values()) + sum(cost.written.values()) + cost.returned + sum(spilled)
    return RooflineTime(
        memory=moved / trainium2.BYTES_PER_SECOND,
        matmuls=sum(map(_padded_operations, cost.matmuls)) / trainium2.FLOPS,
        collectives=collective_seconds(*(collective.sent for collective in cost.collectives)),
        operations=trainium2.OPERATION_SECONDS * len(cost.temporaries),
    )


def lower_bound_seconds(lower_bound: LowerBound) -> float:
    """Return the seconds of a lower bound: full tiles of the matrix unit, and no collectives."""
    memory = (lower_bound.weights + lower_bound.cache) / trainium2.BYTES_PER_SECOND
    return max(memory, lower_bound.operations / trainium2.FLOPS)


def _padded_operations(matmul: Matmul) -> int:
    """Return the operations of a matmul padded to full tiles of the matrix unit."""
    small, large = sorted((matmul.rows, matmul.columns))
    return 2 * matmul.batch * _round_up(small) * large * _round_up(matmul.depth)


def _round_up(count: int) -> int:
    return -(-count // trainium2.SIDE) * trainium2.SIDE
