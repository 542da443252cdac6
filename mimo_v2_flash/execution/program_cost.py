"""The cost of a program on one rank: matmuls, memory traffic and collectives."""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

__all__ = ["Collective", "Matmul", "ProgramCost", "Temporary"]


class Matmul(NamedTuple):
    """A batched matmul: `batch` times [rows, depth] x [depth, columns]."""

    batch: int
    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self)


class Temporary(NamedTuple):
    """An intermediate array in memory: its bytes, and the bytes that all its readers read."""

    size: int
    read: int


class Collective(NamedTuple):
    """A collective: its opcode, its number of ranks, and the bytes that each of them sends."""

    kind: str
    ranks: int
    sent: int


class ProgramCost(NamedTuple):
    """The cost of a program on one rank.

    Attributes
    ----------
    instructions
        Number of instructions before compilation, those of reducers included.
    matmuls
        All matmuls.
    read, written
        Bytes read and written of each input, by its path. An input may be read several times.
    returned
        Bytes of the outputs that are not aliased to an input.
    temporaries
        Intermediate arrays in memory.
    collectives
        All collectives, in order.
    """

    instructions: int
    matmuls: tuple[Matmul, ...]
    read: Mapping[str, int]
    written: Mapping[str, int]
    returned: int
    temporaries: tuple[Temporary, ...]
    collectives: tuple[Collective, ...]

    @property
    def operations(self) -> int:
        """Multiplications and additions of all matmuls."""
        return sum(matmul.operations for matmul in self.matmuls)

    @property
    def largest_temporary(self) -> int:
        """Bytes of the largest temporary."""
        return max((temporary.size for temporary in self.temporaries), default=0)
