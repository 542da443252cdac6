"""Placements: what a model takes in memory in each format, with experts resident or in a store.

A placement that keeps all weights in memory comes before one that reads experts from a disk, and of
those that keep them the one whose weights are most precise comes first: a token of MiMo-V2-Flash
reads 9.5 GB of experts in FP8, which takes a disk of 3 GB/s three seconds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.filesize import decimal

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.checkpoint.weight_counts import CountedRow, CountedWeight, counted_table
from mimo_v2_flash.expert_store.record_layout import PAGE
from mimo_v2_flash.quantization.isq_types import isq_name

__all__ = ["AS_STORED", "SMALLER", "Placement", "choose", "least", "placements"]

AS_STORED = "as stored"
SMALLER = ("q8_0", "q6_k", "q4_k", "q3_k")
"""Formats that a model is quantized to if it does not fit as stored, the most precise first."""
MATRICES = 3  # of an expert; the pages around each may be read with it


class Placement(NamedTuple):
    """A way to hold a model in memory.

    Attributes
    ----------
    label
        The format in words.
    request
        What weights are quantized to.
    table
        All weights in their format.
    other_bytes
        Bytes beside weights: KV cache, buffers.
    expert_cache
        The budget of an expert store; None if all experts are resident.
    """

    label: str
    request: IsqRequest
    table: Sequence[CountedRow]
    other_bytes: int
    expert_cache: int | None = None

    @property
    def experts_bytes(self) -> int:
        """Bytes of all experts."""
        return sum(row.nbytes for row in self.table if row.is_expert)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but experts."""
        return sum(row.nbytes for row in self.table if not row.is_expert)

    @property
    def expert_bytes(self) -> int:
        """Bytes of the largest expert in a store."""
        sizes = Counter[str]()
        for row in self.table:
            if row.is_expert:
                sizes[row.row.name.partition(".mlp.")[0]] += row.row.nbytes
        return max(sizes.values(), default=0) + 2 * MATRICES * PAGE

    @property
    def needed_bytes(self) -> int:
        """Bytes in all."""
        experts = self.experts_bytes if self.expert_cache is None else self.expert_cache
        return self.resident_bytes + experts + self.other_bytes

    @property
    def options(self) -> str:
        """The options that ask for this placement."""
        words = [f"--isq {isq_name(self.request.isq)}"] if self.request.isq else []
        if self.request.topology.rules:
            words.append("--topology FILE")
        if self.expert_cache is not None:
            words.append(f"--expert-cache {self.expert_cache}")
        return " ".join(words)

    def __str__(self) -> str:
        experts = f"all {decimal(self.experts_bytes)} of experts resident"
        if self.expert_cache is not None:
            whole = decimal(self.experts_bytes)
            experts = f"{decimal(self.expert_cache)} of {whole} of experts in an expert cache"
        if not self.experts_bytes:
            experts = "no experts"
        return f"weights {self.label}, {experts}, {decimal(self.needed_bytes)} in all"

    def with_store(self, memory: int) -> "Placement":
        """Return the placement with an expert store that has what `memory` leaves, if anything."""
        room = memory - self.resident_bytes - self.other_bytes
        return self._replace(expert_cache=max(min(room, self.experts_bytes), self.expert_bytes))


def placements(
    weights: list[CountedWeight],
    requests: Iterable[tuple[str, IsqRequest]],
    *,
    other_bytes: int,
) -> Iterator[Placement]:
    """Yield the placement of each request with all experts resident.

    Parameters
    ----------
    weights
        Sizes and places of all weights.
    requests
        Names, and what weights are quantized to.
    other_bytes
        Bytes beside the weights.
    """
    for label, request in requests:
        yield Placement(label, request, counted_table(weights, request), other_bytes)


def choose(resident: Sequence[Placement], stored: Sequence[Placement], memory: int) -> Placement:
    """Return the first placement that fits into `memory`.

    Parameters
    ----------
    resident
        Placements with all experts in memory, the preferred one first.
    stored
        Placements whose files an expert store may read, which are tried then.
    memory
        Bytes.

    Raises
    ------
    ValueError
        If nothing fits; the message has the least that would.
    """
    stores = [each.with_store(memory) for each in stored if each.experts_bytes]
    for each in (*resident, *stores):
        if each.needed_bytes <= memory:
            return each
    nearest = least([*resident, *stores])
    words = f" ({nearest.options})" if nearest.options else ""
    raise ValueError(
        f"device_map auto: nothing fits into {decimal(memory)}; the least is {nearest}{words}: "
        "free memory, shorten the context, or split the model over more ranks"
    )


def least(candidates: Iterable[Placement]) -> Placement:
    """Return the placement that needs the least memory."""
    return min(candidates, key=lambda each: each.needed_bytes)
