"""An in-memory checkpoint, and the execution of conversion plans on it.

disk = Disk()
plan = disk.row_plan("w", (code, scale), encoding)
made(disk, plan, encoding).value("w")
"""

from math import prod
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.safetensors_file import READABLE, TensorInfo
from mimo_v2_flash.convert.encoding import Encoding
from mimo_v2_flash.convert.plan import ConversionPlan, ConversionTask, quantized
from mimo_v2_flash.quantization import StoredLayout, row_layout
from mimo_v2_flash.quantization.fp8 import BlockScaled
from mimo_v2_flash.quantization.fp8_grid import block_height
from mimo_v2_flash.quantization.fp8_projections import SCALE
from mimo_v2_flash.quantization.stored_layout import Projections, WeightShapes

Infos = dict[str, TensorInfo]

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

    def coded(self, name: str, weight: tuple[np.ndarray, np.ndarray]) -> Infos:
        """Append codes and scales and return their TensorInfos."""
        code, scale = weight
        return {name: self.add(code, "F8_E4M3"), name + SCALE: self.add(scale, "F32")}

    def row_plan(
        self, name: str, weight: tuple[np.ndarray, np.ndarray], encoding: Encoding
    ) -> ConversionPlan:
        """Append codes and scales and return the plan that converts them."""
        code, scale = weight
        shapes = WeightShapes(code.shape, {"code": code.shape, "scale": scale.shape})
        layout = row_layout(BlockScaled, name, f"x.safetensors: {name}", shapes)
        return quantized(layout, self.coded(name, weight), encoding)

    def joint_plan(
        self, projections: Projections, infos: Infos, encoding: Encoding
    ) -> ConversionPlan:
        """Return the plan of projections that must be converted together."""
        layout = BlockScaled.joint_layout(projections, infos, lambda name: f"x.safetensors: {name}")
        assert isinstance(layout, StoredLayout)
        return quantized(layout, infos, encoding)

    def read(self, task: ConversionTask) -> list[np.ndarray]:
        """Return the source arrays of a conversion task."""
        return [
            np.frombuffer(self.data[p.begin : p.end], READABLE[p.dtype]).reshape(p.shape)
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
        scale = self.arrays[name + SCALE]
        height = block_height((array.shape, scale.shape))
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
        size = prod(shape) * READABLE[dtype].itemsize
        assert joined([(p.begin, p.begin + p.array.nbytes) for p in chunks]) == [(0, size)]
        data = b"".join(p.array.tobytes() for p in chunks)
        arrays[name] = np.frombuffer(data, READABLE[dtype]).reshape(shape)
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
