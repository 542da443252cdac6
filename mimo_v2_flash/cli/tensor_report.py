"""Report of what a model's files hold: tensors, elements by dtype and bytes."""

from collections.abc import Iterable, Iterator
from typing import Any

from mimo_v2_flash.costs.tensor_counts import TensorCounts, count_tensors

from .console import console, table
from .options import NamedModel
from .result import Result

__all__ = ["tensor_report"]

NAMES = {"model": "text model", "mtp_heads": "MTP heads", "other_modalities": "other modalities"}


def tensor_report(named: NamedModel) -> Result:
    """Print the counts of the model's parts and of all together, and return them."""
    parts = count_tensors(named.config, named.layout, named.towers)
    total = TensorCounts.total(parts.values())
    columns = (*(NAMES[part] for part in parts), "total")
    rows = _rows((*parts.values(), total), total.elements)
    out = console()
    out.print(table(f"{named.title}: what its files hold", ("what",), columns, rows))
    if named.towers is None:
        out.print("Not counted: tensors of other modalities, of which a config.json has no number.")
    numbers = _numbers(total) | {"parts": {part: _numbers(each) for part, each in parts.items()}}
    return Result({"model": named.title} | numbers)


def _rows(counts: tuple[TensorCounts, ...], dtypes: Iterable[str]) -> Iterator[tuple[str, ...]]:
    yield "tensors", *(f"{each.tensors:,}" for each in counts)
    for dtype in dtypes:
        yield f"{dtype} elements", *(f"{each.elements.get(dtype, 0):,}" for each in counts)
    yield "bytes", *(f"{each.nbytes:,}" for each in counts)


def _numbers(counts: TensorCounts) -> dict[str, Any]:
    return {"tensors": counts.tensors, "elements": counts.elements, "bytes": counts.nbytes}
