"""Layouts of stored weights: which rows of a checkpoint's tensors are which rows of weights.

Loading reads a weight by its layout as a whole, preparing a few megabytes at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from math import lcm, prod
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from .quantized_tensor import QuantizedTensor

__all__ = [
    "FusedRows",
    "Heads",
    "LayoutPart",
    "Projections",
    "StoredLayout",
    "StoredRows",
    "WeightRows",
    "WeightShapes",
    "row_layout",
]


class Heads(NamedTuple):
    """Numbers and widths of a layer's query and KV heads."""

    queries: int
    keys: int
    head_dim: int
    v_head_dim: int


class Projections(NamedTuple):
    """A layer's q, k and v in a checkpoint.

    Attributes
    ----------
    q, k, v
        Their names.
    qkv
        The name of the weight that a checkpoint may have instead: [q | k | v] rank after rank.
    heads
        The layer's heads.
    ranks
        The number of those tensor-parallel ranks; 1 where it is plain, [q | k | v] of all heads.
    """

    q: str
    k: str
    v: str
    qkv: str
    heads: Heads
    ranks: int


class StoredRows(NamedTuple):
    """Rows of a checkpoint's tensor: `length` of them from `start` on."""

    tensor: str
    start: int
    length: int


class WeightRows(NamedTuple):
    """Rows of the weight called `name`, from `start` on."""

    name: str
    start: int
    weight: QuantizedTensor


class LayoutPart(NamedTuple):
    """Rows that are read together.

    Attributes
    ----------
    key
        What tells it from the other parts of a checkpoint.
    rows
        The rows of tensors to read.
    weights
        Returns the rows of weights that the arrays of `rows` are.
    """

    key: str
    rows: tuple[StoredRows, ...]
    weights: Callable[[Sequence[np.ndarray]], list[WeightRows]]


class WeightShapes(NamedTuple):
    """The logical shape of a weight, and the shapes of its tensors by field."""

    shape: tuple[int, ...]
    tensors: Mapping[str, tuple[int, ...]]


class StoredLayout(NamedTuple):
    """How one weight, or several that must be read together, lie in a checkpoint.

    Attributes
    ----------
    form
        Their format.
    stored
        The names of the weights in the checkpoint.
    weights
        The weights that they are, by name.
    parts
        Returns the parts of up to so many bytes of the first tensor, or of one group of its rows
        if that is larger; for None the largest parts that there are.
    runs
        Returns the codes in the arrays of a part as they were quantized: in blocks from their top.
    """

    form: type[QuantizedTensor]
    stored: tuple[str, ...]
    weights: dict[str, WeightShapes]
    parts: Callable[[int | None], Iterator[LayoutPart]]
    runs: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]] = itemgetter(slice(1))

    def load(self, tensors: Mapping[str, np.ndarray]) -> dict[str, QuantizedTensor]:
        """Return the weights, by name, from a checkpoint's tensors: views where rows are adjacent.

        Raises
        ------
        ValueError
            If values do not fit; the message names the tensor.
        """
        rows: defaultdict[str, list[QuantizedTensor]] = defaultdict(list)
        for part in self.parts(None):
            arrays = [tensors[r.tensor][r.start : r.start + r.length] for r in part.rows]
            for name, _, weight in part.weights(arrays):
                rows[name].append(weight)
        return {name: self.form.concatenate(weights) for name, weights in rows.items()}


class FusedRows(NamedTuple):
    """How weights in no format lie in one array.

    Attributes
    ----------
    stored
        The name of the array in the checkpoint, alone in a tuple.
    rows
        The rows of the array that each weight is, one run after another, by the weight's name.
    """

    stored: tuple[str]
    rows: dict[str, tuple[range, ...]]

    @classmethod
    def of(cls, where: str, projections: Projections) -> FusedRows:
        """Return where q, k and v lie in a fused weight.

        Raises
        ------
        ValueError
            If the ranks do not have equally many heads; the message begins with `where`.
        """
        q, k, v, stored, (H, K, Q, C), ranks = projections
        if H % ranks or K % ranks:
            raise ValueError(
                f"{where}: {H} query and {K} KV heads, expected those of {ranks} ranks"
            )
        ends = list(accumulate((H * Q // ranks, K * Q // ranks, K * C // ranks), initial=0))
        starts = [rank * ends[-1] for rank in range(ranks)]
        rows = {
            name: tuple(range(start + begin, start + end) for start in starts)
            for name, (begin, end) in zip((q, k, v), pairwise(ends), strict=True)
        }
        return cls((stored,), rows)

    def load(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights, by name, from a checkpoint's tensors: a view of a single run."""
        array = tensors[self.stored[0]]
        return {
            name: array[runs[0].start : runs[0].stop]
            if len(runs) == 1
            else np.concatenate([array[run.start : run.stop] for run in runs])
            for name, runs in self.rows.items()
        }


def row_layout(
    form: type[QuantizedTensor], name: str, where: str, shapes: WeightShapes
) -> StoredLayout:
    """Return the layout of one weight whose rows lie in their order in every tensor.

    Parameters
    ----------
    form : type of QuantizedTensor
        The format.
    name : str
        Name of the weight.
    where : str
        Where it is, for messages.
    shapes : WeightShapes
        Shapes of the weight and of its tensors.

    Raises
    ------
    ValueError
        If the tensors do not fit each other; the message begins with `where`.
    """
    rows, columns = shapes.shape
    groups, names = form.row_groups(where, shapes.tensors), form.tensor_names(name)
    unit, first = lcm(*groups.values()), form.tensors[0]
    row_bytes = prod(shapes.tensors[first.field][1:]) * np.dtype(first.dtype).itemsize
    unit_bytes = unit // groups[first.field] * row_bytes

    def parts(max_bytes: int | None) -> Iterator[LayoutPart]:
        step = rows if max_bytes is None else unit * max(1, max_bytes // unit_bytes)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            stored = (StoredRows(names[f], start // g, -(-count // g)) for f, g in groups.items())
            yield LayoutPart(f"{name} {start}", tuple(stored), weights(start, count))

    def weights(start: int, count: int) -> Callable[[Sequence[np.ndarray]], list[WeightRows]]:
        def read(arrays: Sequence[np.ndarray]) -> list[WeightRows]:
            by_field = dict(zip(groups, arrays, strict=True))
            return [
                WeightRows(name, start, form.from_checkpoint(where, (count, columns), by_field))
            ]

        return read

    return StoredLayout(form, (name,), {name: shapes}, parts)
