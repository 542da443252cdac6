"""What a program costs a rank: matmuls, bytes of memory, exchanges."""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

__all__ = ["Collective", "Product", "ProgramCost", "Temporary"]


class Product(NamedTuple):
    """A matmul, or `batch` of them: [rows, depth] times [depth, columns]."""

    batch: int
    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * prod(self)


class Temporary(NamedTuple):
    """Something stored: its bytes, and how many bytes of it are read, all readers together."""

    size: int
    read: int


class Collective(NamedTuple):
    """An exchange: its operator, its ranks, and the bytes that each of them sends."""

    kind: str
    ranks: int
    sent: int


class ProgramCost(NamedTuple):
    """What a rank's program takes.

    Attributes
    ----------
    instructions
        In the program as it is given to the compiler, reducers among them.
    products
        All matmuls.
    read, written
        Bytes of each input, by its path. An input may be read several times.
    returned
        Bytes of outputs that have memory of their own.
    temporaries
        What is stored and is no output.
    collectives
        All exchanges, in order.
    """

    instructions: int
    products: tuple[Product, ...]
    read: Mapping[str, int]
    written: Mapping[str, int]
    returned: int
    temporaries: tuple[Temporary, ...]
    collectives: tuple[Collective, ...]

    @property
    def operations(self) -> int:
        """Multiplications and additions of all matmuls."""
        return sum(product.operations for product in self.products)

    @property
    def largest_temporary(self) -> int:
        """Bytes."""
        return max((temporary.size for temporary in self.temporaries), default=0)
