"""An in-memory checkpoint, and the execution of conversion plans on it.

disk = Disk()
plan = conversion_tasks.scaled(disk.coded("w", (code, scale)), encoding)
made(disk, plan, encoding).value("w")
"""

from math import prod
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint import fp8, param_specs
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, TensorInfo
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.plan import (
    ConversionPlan,
    ConversionTask,
    QuantizedTensorInfo,
)
from mimo_v2_flash.quantization.fp8 import BlockScaled

GAP = 3  # bytes between tensors, so that their ranges never touch


class Disk:
    """The bytes of one file in memory, to which tensors are added."""

    def __init__(self) -> None:
        self.data = b""
        self.used: list[tuple[int, int]] = []

    def add(self, array: np.ndarray, dtype: str) -> TensorInfo:
        """Append a tensor and return its TensorInfo."""
        begin = len(self.data) + GAP
        self.data += b"\xff" * GAP + array.tobytes()
        self.used.append((begin, len(self.data)))
        return TensorInfo("x.safetensors", dtype, array.shape, begin, len(self.data))

    def coded(self, name: str, weight: tuple[np.ndarray, np.ndarray]) -> QuantizedTensorInfo:
        """Append codes and scales and return their QuantizedTensorInfo."""
        return QuantizedTensorInfo(name, self.add(weight[0], "F8_E4M3"), self.add(weight[1], "F32"))

    def read(self, task: ConversionTask) -> list[np.ndarray]:
        """Return the source arrays of a conversion task."""
        return [
            np.frombuffer(self.data[p.begin : p.end], DTYPES[p.dtype]).reshape(p.shape)
            for p in task.sources
        ]


class Made(NamedTuple):
    """The result of a conversion plan: arrays by name, and how many values were rounded."""

    arrays: dict[str, np.ndarray]
    rounded: int

    def value(self, name: str) -> np.ndarray:
        """Return a weight in float32."""
        array = self.arrays[name]
        if array.dtype != np.uint8:
            return array.astype(np.float32)
        scale = self.arrays[name + param_specs.SCALE]
        height = fp8.block_height((array.shape, scale.shape))
        return BlockScaled(array, scale, height).dequantize()


def made(disk: Disk, plan: ConversionPlan, encoding: Encoding) -> Made:
    """Run the tasks in reverse order; check that they read and write every byte exactly once."""
    read = sorted((p.begin, p.end) for task in plan.tasks for p in task.sources)
    assert joined(read) == sorted(disk.used)
    assert len({task.key for task in plan.tasks}) == len(plan.tasks)
    all_chunks = [p for task in reversed(plan.tasks) for p in task.convert(disk.read(task))]
    arrays = {}
    for name, dtype, shape, _ in plan.outputs:
        chunks = sorted((p for p in all_chunks if p.name == name), key=lambda chunk: chunk.begin)
        size = prod(shape) * DTYPES[dtype].itemsize
        assert joined([(p.begin, p.begin + p.array.nbytes) for p in chunks]) == [(0, size)]
        data = b"".join(p.array.tobytes() for p in chunks)
        arrays[name] = np.frombuffer(data, DTYPES[dtype]).reshape(shape)
    assert {p.name for p in all_chunks} == arrays.keys()
    return Made(arrays, encoding.rounded)


def joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted ranges with adjacent ones merged; none may overlap or be empty."""
    runs: list[tuple[int, int]] = []
    for begin, end in ranges:
        assert begin < end
        assert not runs or begin >= runs[-1][1]
        if runs and begin == runs[-1][1]:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((begin, end))
    return runs
