"""Conversion plans: the tensors of a prepared checkpoint, and the tasks that make them.

A task converts a few megabytes of the source to chunks of output tensors. Tasks do not depend on
each other, and no two of them read the same byte of the source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint import fp8, param_specs
from mimo_v2_flash.checkpoint.check import check_tensors
from mimo_v2_flash.checkpoint.param_specs import ROUTER, SCALE, ParamSpec
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, WIDENED, TensorInfo
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization.fp8 import BLOCK, BlockScaled, grid, plain_height, widened

from .encoding import Encoding

__all__ = [
    "ConversionPlan",
    "ConversionTask",
    "OutputTensor",
    "QuantizedTensorInfo",
    "TensorChunk",
    "crossing",
    "fused",
    "plain",
    "plan_conversion",
    "scaled",
]

TASK_BYTES = 1 << 22  # bytes of the source that a task reads, or one row (of FP8 blocks) if larger


class OutputTensor(NamedTuple):
    """A tensor of the prepared checkpoint, or of one of its shards."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int = 0


class TensorChunk(NamedTuple):
    """A part of an output tensor: the bytes of `array`, from byte `begin` of the tensor on."""

    name: str
    begin: int
    array: np.ndarray
    shard: int = 0

    @classmethod
    def at_row(cls, name: str, row: int, array: np.ndarray, shard: int = 0) -> "TensorChunk":
        """Return the rows `array` of an output tensor, from row `row` on."""
        return cls(name, row * (array.nbytes // len(array)), array, shard)


class ConversionTask(NamedTuple):
    """A unit of conversion: byte ranges of the source, and the function that converts their arrays.

    `key` names the task in the journal.
    """

    key: str
    sources: tuple[TensorInfo, ...]
    convert: Callable[[list[np.ndarray]], list[TensorChunk]]

    @property
    def nbytes(self) -> int:
        """Bytes of the source that it reads."""
        return sum(info.end - info.begin for info in self.sources)


class ConversionPlan(NamedTuple):
    """The tensors of a prepared checkpoint, and the tasks that fill them."""

    outputs: list[OutputTensor]
    tasks: list[ConversionTask]


class QuantizedTensorInfo(NamedTuple):
    """An FP8 weight's name, and the TensorInfo of its codes and of its scales."""

    name: str
    code: TensorInfo
    scale: TensorInfo


def plan_conversion(
    config: MiMoConfig,
    params: Sequence[ParamSpec],
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
) -> ConversionPlan:
    """Return the plan that converts the tensors at `infos` to a prepared checkpoint.

    Raises
    ------
    ValueError
        If a tensor's shape or dtype does not fit its parameter; the message names file and tensor.
    """
    check_tensors(params, infos)
    joined = dict(_joined(config, infos, encoding))
    done = {name for names in joined for name in names}
    names = [name for name in infos if name not in done and not name.endswith(SCALE)]
    plans = [*joined.values(), *(_apart(name, infos, encoding) for name in names)]
    outputs, tasks = zip(*plans, strict=True)
    return ConversionPlan(list(chain(*outputs)), list(chain(*tasks)))


def _joined(
    config: MiMoConfig, infos: Mapping[str, TensorInfo], encoding: Encoding
) -> Iterator[tuple[tuple[str, ...], ConversionPlan]]:
    """Yield the names of weights that are converted together, and the plan for them."""

    def where(name: str) -> str:
        return f"{infos[name].file}: {name}"

    for index, spec in enumerate(config.layers):
        prefix = f"model.layers.{index}"
        weights = fp8.joined_projections(prefix, spec, config, infos, where)
        if isinstance(weights, fp8.CrossingKV):
            k, v, heads = weights
            yield (k, v), crossing(_quantized(k, infos), _quantized(v, infos), heads, encoding)
        if isinstance(weights, fp8.FusedQKV):
            qkv, heads, ranks = weights
            params = param_specs.attention(prefix, spec.attention, spec.hidden_size)[:3]
            names = tuple(param.name for param in params)
            yield (qkv,), fused(_quantized(qkv, infos), names, heads, ranks, encoding)


def _apart(name: str, infos: Mapping[str, TensorInfo], encoding: Encoding) -> ConversionPlan:
    if name + SCALE in infos:
        return scaled(_quantized(name, infos), encoding)
    return plain(name, infos[name], encoding)


def _quantized(name: str, infos: Mapping[str, TensorInfo]) -> QuantizedTensorInfo:
    return QuantizedTensorInfo(name, infos[name], infos[name + SCALE])


def plain(name: str, info: TensorInfo, encoding: Encoding) -> ConversionPlan:
    """Return the plan of a tensor without scales."""
    dtype = _plain_dtype(name, info, encoding)
    step = max(1, TASK_BYTES // _row_bytes(info))

    def task(start: int) -> ConversionTask:
        def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
            array = arrays[0].astype(DTYPES[dtype], copy=False)
            return [TensorChunk.at_row(name, start, array)]

        rows = min(step, info.shape[0] - start)
        return ConversionTask(f"{name} {start}", (_rows(info, start, rows),), convert)

    starts = range(0, info.shape[0], step)
    return ConversionPlan(
        [OutputTensor(name, dtype, info.shape)], [task(start) for start in starts]
    )


def _plain_dtype(name: str, info: TensorInfo, encoding: Encoding) -> str:
    """Return the dtype to write: the encoding's for matrices alone; float32 for routers."""
    if ROUTER in name:
        return "F32"
    is_matrix = len(info.shape) == 2
    return encoding.stored(info.dtype) if is_matrix else WIDENED.get(info.dtype, info.dtype)


def scaled(weight: QuantizedTensorInfo, encoding: Encoding) -> ConversionPlan:
    """Return the plan of an FP8 weight on a plain grid; each task converts some block rows."""
    name, code, scale = weight
    height = plain_height(f"{code.file}: {name}", code.shape, scale.shape)
    step = max(1, TASK_BYTES // (height * code.shape[1]))

    def task(first: int) -> ConversionTask:
        start, blocks = first * height, min(step, scale.shape[0] - first)
        rows = min(blocks * height, code.shape[0] - start)

        def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
            weight = BlockScaled(arrays[0], widened(arrays[1]), height)
            return _chunks(name, weight, encoding, start)

        sources = _rows(code, start, rows), _rows(scale, first, blocks)
        return ConversionTask(f"{name} {start}", sources, convert)

    tasks = [task(first) for first in range(0, scale.shape[0], step)]
    return ConversionPlan(_outputs(name, code.shape, height, encoding), tasks)


def crossing(
    k: QuantizedTensorInfo, v: QuantizedTensorInfo, heads: fp8.Heads, encoding: Encoding
) -> ConversionPlan:
    """Return the plan of K and V that share scale rows: one task; its scales are of 64 rows."""

    def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
        k_code, k_scale, v_code, v_scale = arrays
        w_k, w_v = fp8.keys_and_values(k.name, (k_code, k_scale), (v_code, v_scale), heads)
        return _chunks(k.name, w_k, encoding, 0) + _chunks(v.name, w_v, encoding, 0)

    outputs = [
        output
        for weight in (k, v)
        for output in _outputs(weight.name, weight.code.shape, fp8.HALF_BLOCK, encoding)
    ]
    return ConversionPlan(outputs, [ConversionTask(k.name, (*k[1:], *v[1:]), convert)])


def fused(
    qkv: QuantizedTensorInfo,
    split_names: tuple[str, ...],
    heads: fp8.Heads,
    ranks: int,
    encoding: Encoding,
) -> ConversionPlan:
    """Return the plan that splits MiMo-V2.5's `qkv_proj` into q, k and v, rank by rank."""
    name, code, scale = qkv
    rows = fp8.rank_rows(f"{code.file}: {name}", (code.shape, scale.shape), heads, ranks)
    code_rows, scale_rows = sum(rows), scale.shape[0] // ranks
    step = max(1, TASK_BYTES // (BLOCK * code.shape[1]))

    def task(rank: int, first: int) -> ConversionTask:
        start, blocks = first * BLOCK, min(step, scale_rows - first)
        count = min(blocks * BLOCK, code_rows - start)

        def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
            return [
                chunk
                for part, row, weight in fp8.split_rank(arrays[0], arrays[1], rows, start)
                for chunk in _chunks(split_names[part], weight, encoding, rank * rows[part] + row)
            ]

        sources = (
            _rows(code, rank * code_rows + start, count),
            _rows(scale, rank * scale_rows + first, blocks),
        )
        return ConversionTask(f"{name} {rank} {start}", sources, convert)

    shapes = [(ranks * count, code.shape[1]) for count in rows]
    outputs = [
        output
        for split_name, shape in zip(split_names, shapes, strict=True)
        for output in _outputs(split_name, shape, fp8.HALF_BLOCK, encoding)
    ]
    starts = product(range(ranks), range(0, scale_rows, step))
    return ConversionPlan(outputs, [task(rank, first) for rank, first in starts])


def _outputs(
    name: str, shape: tuple[int, ...], height: int, encoding: Encoding
) -> list[OutputTensor]:
    """Return the output tensors of an FP8 weight: codes and scales, or values alone."""
    dtype = encoding.stored("F8_E4M3")
    scales = [OutputTensor(name + SCALE, "F32", grid(shape, height))] if dtype == "F8_E4M3" else []
    return [OutputTensor(name, dtype, shape), *scales]


def _chunks(name: str, weight: BlockScaled, encoding: Encoding, row: int) -> list[TensorChunk]:
    """Return the output chunks of `weight`: the rows of weight `name` from `row` on."""
    values, *scales = encoding.scaled(name, weight)
    scale_row = row // weight.block_height
    return [
        TensorChunk.at_row(name, row, values),
        *(TensorChunk.at_row(name + SCALE, scale_row, scale) for scale in scales),
    ]


def _rows(info: TensorInfo, start: int, count: int) -> TensorInfo:
    """Return the TensorInfo of `count` rows of a tensor from row `start` on."""
    begin = info.begin + start * _row_bytes(info)
    end = begin + count * _row_bytes(info)
    return info._replace(shape=(count, *info.shape[1:]), begin=begin, end=end)


def _row_bytes(info: TensorInfo) -> int:
    return (info.end - info.begin) // info.shape[0]
