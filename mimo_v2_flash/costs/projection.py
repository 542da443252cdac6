"""How long a program would take on Trainium2: projected from its cost, never measured.

    memory and matmuls overlap, exchanges overlap with nothing, operations have no overhead

is the bound; what every operation takes at least is told beside it. Memory: all inputs that are
read, all that is written, and temporaries that are too large for the chip. A matmul keeps the
smaller of its sides in the matrix unit, up to 128 rows at a time, while the larger one streams by:
one row costs as much as 128.
"""

from typing import NamedTuple

from mimo_v2_flash.execution.program_cost import Product, ProgramCost

from . import trainium2
from .lower_bound import LowerBound

__all__ = ["RooflineTime", "lower_bound_seconds", "roofline_time"]


class RooflineTime(NamedTuple):
    """Of one rank, by what takes them.

    Attributes
    ----------
    memory, matmuls, exchanges
        Bytes, operations, and what goes to other ranks.
    operations
        What all operations take at least, each by itself.
    """

    memory: float = 0.0
    matmuls: float = 0.0
    collectives: float = 0.0
    operations: float = 0.0

    @property
    def bound(self) -> float:
        """Less is not possible."""
        return max(self.memory, self.matmuls) + self.collectives

    @property
    def with_operations(self) -> float:
        """Return the bound and the overhead of every operation."""
        return self.bound + self.operations


def roofline_time(cost: ProgramCost) -> RooflineTime:
    """Return how long a program of this cost would take."""
    spilled = (t.size + t.read for t in cost.temporaries if t.size > trainium2.SBUF)
    moved = sum(cost.read.values()) + sum(cost.written.values()) + cost.returned + sum(spilled)
    return RooflineTime(
        memory=moved / trainium2.BYTES_PER_SECOND,
        matmuls=sum(map(_occupied, cost.products)) / trainium2.FLOPS,
        collectives=sum(
            trainium2.EXCHANGE_SECONDS + exchange.sent / trainium2.EXCHANGE_BYTES_PER_SECOND
            for exchange in cost.collectives
        ),
        operations=trainium2.OPERATION_SECONDS * len(cost.temporaries),
    )


def lower_bound_seconds(lower_bound: LowerBound) -> float:
    """Return the seconds of the least that a program must do: full tiles, and no exchange."""
    memory = (lower_bound.weights + lower_bound.cache) / trainium2.BYTES_PER_SECOND
    return max(memory, lower_bound.operations / trainium2.FLOPS)


def _occupied(product: Product) -> int:
    """Return the operations that the matrix unit could have done in the time that this takes."""
    small, large = sorted((product.rows, product.columns))
    return 2 * product.batch * _rounded(small) * large * _rounded(product.depth)


def _rounded(count: int) -> int:
    return -(-count // trainium2.SIDE) * trainium2.SIDE
