"""An expert as one record: its three matrices with all that their formats store, and where it lies.

The arrays of a record in memory are the bytes of the file: nothing is converted.
"""

from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.compute import ActivationQuantizedWeight, stored_weight

from .record_layout import RecordLayout, find_region, lay_out_record

__all__ = ["ExpertRecord", "record_bytes"]


class ExpertRecord(NamedTuple):
    """An expert's weights as mapped, of which no byte is read, and the layout of their bytes."""

    mapped: DenseWeights
    layout: RecordLayout

    @classmethod
    def of(cls, where: str, mapped: DenseWeights) -> "ExpertRecord":
        """Return the record of mapped weights.

        Raises
        ------
        ValueError
            If a weight is not in a file as memory holds it; the message begins with `where`.
        """
        regions = []
        for name, weight in mapped._asdict().items():
            for array in _arrays(weight).values():
                region = find_region(array)
                if region is None:
                    matrix = name.removeprefix("w_").partition("_")[0]
                    raise ValueError(
                        f"{where}: its {matrix} is not in a file as memory holds it: an expert "
                        "store converts nothing, write the weights with `mimo quantize` or "
                        "`mimo prepare` before, or name an isq_cache"
                    )
                regions.append(region)
        return cls(mapped, lay_out_record(regions))

    def weights(self, buffer: np.ndarray) -> DenseWeights:
        """Return the expert whose bytes are in `buffer`."""
        arrays = iter(self.layout.arrays(buffer))

        def in_buffer(weight: Any) -> Any:
            names = _arrays(weight)
            return _with_arrays(weight, dict(zip(names, islice(arrays, len(names)), strict=True)))

        return DenseWeights(*map(in_buffer, self.mapped))


def record_bytes(expert: DenseWeights) -> int:
    """Return the bytes that a store holds of an expert; of one in memory, those of its arrays."""
    arrays = [array for weight in expert for array in _arrays(weight).values()]
    regions = [region for region in map(find_region, arrays) if region]
    if len(regions) < len(arrays):
        return sum(array.nbytes for array in arrays)
    return lay_out_record(regions).nbytes


def _arrays(weight: Any) -> dict[str, np.ndarray]:
    """Return the arrays of a weight, by field; an array has itself alone."""
    stored, _ = stored_weight(weight)
    return stored.stored_arrays() if isinstance(stored, QuantizedTensor) else {"": stored}


def _with_arrays(weight: Any, arrays: dict[str, np.ndarray]) -> Any:
    stored, compute = stored_weight(weight)
    replaced = stored.with_arrays(arrays) if isinstance(stored, QuantizedTensor) else arrays[""]
    is_rounding = isinstance(weight, ActivationQuantizedWeight)
    return ActivationQuantizedWeight(replaced, compute) if is_rounding else replaced
