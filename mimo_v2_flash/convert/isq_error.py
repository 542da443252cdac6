"""Errors of quantization, weight by weight, with a few megabytes in memory at a time."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.isq_table import IsqRequest, IsqRow
from mimo_v2_flash.checkpoint.source import Source
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.io_threads import parallel_map
from mimo_v2_flash.quantization import HUB_FORMAT, get_format

from .encoding import Encoding
from .isq_load import warn_of_topology
from .job import ConversionJob, plan_conversion_job
from .plan import ConversionTask

__all__ = ["ErrorJob", "IsqError", "plan_errors"]

WORKERS = 2


class IsqError(NamedTuple):
    """The error of a weight.

    Attributes
    ----------
    name, form
        The weight, and the format that it is quantized to.
    relative_rms
        Root mean square of the differences, relative to that of the weight.
    largest_of_range
        The largest difference, relative to the largest magnitude of the weight.
    """

    name: str
    form: str
    relative_rms: float
    largest_of_range: float


class _Sums:
    """Sums over the rows of a weight."""

    def __init__(self) -> None:
        self.squared = self.error_squared = self.largest = self.largest_error = 0.0

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        """Add some rows."""
        error = np.abs(rounded.astype(np.float64) - exact)
        self.squared += float(np.sum(np.square(exact, dtype=np.float64)))
        self.error_squared += float(np.sum(np.square(error)))
        self.largest = max(self.largest, float(np.max(np.abs(exact))))
        self.largest_error = max(self.largest_error, float(np.max(error)))

    def error(self, name: str, form: str) -> IsqError:
        """Return the error of all rows so far; of a weight of zeros it is 0."""
        rms = math.sqrt(self.error_squared / self.squared) if self.squared else 0.0
        return IsqError(name, form, rms, self.largest_error / (self.largest or 1.0))


class ErrorJob(NamedTuple):
    """A measurement of errors: what becomes of each weight, and the source's values of them."""

    table: Sequence[IsqRow]
    values: ConversionJob

    def run(self, advance: Callable[[int], object]) -> list[IsqError]:
        """Return the error of each weight that is quantized; `advance` takes bytes of the source.

        Rows that a format stores together are those of one task, which may begin within a block.
        """
        forms = {row.name: row.form for row in self.table if row.form}
        sums: Mapping[str, _Sums] = defaultdict(_Sums)
        lock = Lock()

        def measure(task: ConversionTask) -> None:
            for chunk in self.values.convert(task):
                if form := forms.get(chunk.name):
                    rounded = get_format(form).quantize(chunk.array, chunk.name).dequantize()
                    with lock:
                        sums[chunk.name].add(chunk.array, rounded)
            advance(task.nbytes)

        parallel_map(measure, self.values.plan.tasks, WORKERS)
        return [sums[name].error(name, form) for name, form in forms.items()]


def plan_errors(source: Source, config: MiMoConfig, request: IsqRequest) -> ErrorJob:
    """Return the measurement of what quantization costs each weight; nothing is written.

    Parameters
    ----------
    source : Source
        The checkpoint.
    config : MiMoConfig
        The architecture's numbers.
    request : IsqRequest
        What weights would be quantized to.

    Raises
    ------
    ValueError
        As of `plan_conversion_job`.
    """
    experts = tuple(range(config.n_routed_experts))
    quantized = Encoding(HUB_FORMAT, "cpu", request)
    plan_conversion_job(source, config, Path(), quantized, experts)
    warn_of_topology(quantized, config)
    values = plan_conversion_job(source, config, Path(), Encoding("float32", "cpu"), experts)
    return ErrorJob(quantized.table, values)
