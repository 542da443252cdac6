"""Conversion plans: the tensors of a prepared checkpoint, and the tasks that make them.

A task converts a few megabytes of the source to chunks of output tensors. Tasks do not depend on
each other, and no two of them read the same byte of the source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import lcm
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.check import check_tensors
from mimo_v2_flash.checkpoint.param_specs import ROUTER, ParamSpec
from mimo_v2_flash.checkpoint.projections import find_layouts
from mimo_v2_flash.checkpoint.safetensors_file import (
    DTYPES,
    READABLE,
    WIDENED,
    TensorInfo,
    dtype_name,
)
from mimo_v2_flash.checkpoint.source import Source
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization import QuantizedTensor, StoredLayout, row_layout
from mimo_v2_flash.quantization.stored_layout import FusedRows, LayoutPart, WeightShapes

from .encoding import Encoding, stored_arrays

__all__ = [
    "ConversionPlan",
    "ConversionTask",
    "OutputTensor",
    "Sample",
    "TensorChunk",
    "convert_task",
    "plain",
    "plan_conversion",
    "quantized",
    "read_part",
    "row_layout_of",
    "task_parts",
]

TASK_BYTES = 1 << 22  # bytes of the source that a task reads, or a row (of blocks) if larger


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
        return sum(info.nbytes for info in self.sources)


Sample = dict[TensorInfo, np.ndarray]
"""Rows of tensors that were read already; whoever converts them takes them out."""


def convert_task(
    source: Source, task: ConversionTask, sample: Sample | None = None
) -> list[TensorChunk]:
    """Return the chunks that a task makes of a source; an error names the source's file."""
    known = {} if sample is None else sample
    arrays = (known.pop(info, None) for info in task.sources)
    pairs = zip(arrays, task.sources, strict=True)
    return task.convert([_read(source, info) if a is None else a for a, info in pairs])


def task_parts(layout: StoredLayout) -> list[LayoutPart]:
    """Return the parts of a layout that a task each converts."""
    return list(layout.parts(TASK_BYTES))


def read_part(source: Source, infos: Mapping[str, TensorInfo], part: LayoutPart) -> Sample:
    """Return the rows that a part of a layout is made of, in its order."""
    rows = [_rows(infos[r.tensor], r.start, r.length) for r in part.rows]
    return {info: _read(source, info) for info in rows}


def _read(source: Source, info: TensorInfo) -> np.ndarray:
    data = source.read(info.file, info.begin, info.end)
    return np.frombuffer(data, READABLE[info.dtype]).reshape(info.shape)


class ConversionPlan(NamedTuple):
    """A plan of a conversion.

    Attributes
    ----------
    outputs
        The tensors of the prepared checkpoint.
    tasks
        The tasks that fill them.
    formats
        The storage formats of its weights that are in one, by name.
    """

    outputs: list[OutputTensor]
    tasks: list[ConversionTask]
    formats: dict[str, type[QuantizedTensor]]


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
    formats, forms = check_tensors(params, infos), encoding.forms()
    joint = list(find_layouts(config, infos, lambda name: f"{infos[name].file}: {name}"))
    plans = [plan for layout in joint for plan in _joint(layout, infos, encoding, forms)]
    done = {name for layout in joint for name in layout.stored}
    for name, shape in params:
        if name in done:
            continue
        if form := formats.get(name):
            layout = row_layout_of(form, name, shape, infos)
            plans.append(quantized(layout, infos, encoding, forms))
        else:
            plans.append(plain(name, [infos[name]], encoding, forms.get(name)))
    return ConversionPlan(
        [output for plan in plans for output in plan.outputs],
        [task for plan in plans for task in plan.tasks],
        {name: form for plan in plans for name, form in plan.formats.items()},
    )


def _joint(
    layout: StoredLayout | FusedRows,
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
    forms: Mapping[str, type[QuantizedTensor]],
) -> Iterator[ConversionPlan]:
    """Yield the plans of projections that lie together."""
    if isinstance(layout, StoredLayout):
        yield quantized(layout, infos, encoding, forms)
        return
    info = infos[layout.stored[0]]
    for name, runs in layout.rows.items():
        parts = [_rows(info, run.start, len(run)) for run in runs]
        yield plain(name, parts, encoding, forms.get(name))


def row_layout_of(
    form: type[QuantizedTensor],
    name: str,
    shape: tuple[int, ...],
    infos: Mapping[str, TensorInfo],
) -> StoredLayout:
    """Return the layout of a weight of its own, from the TensorInfos of its tensors."""
    names = form.tensor_names(name)
    shapes = {field: infos[stored].shape for field, stored in names.items()}
    where = f"{next(infos[stored].file for stored in names.values())}: {name}"
    return row_layout(form, name, where, WeightShapes(shape, shapes))


def plain(
    name: str,
    parts: Sequence[TensorInfo],
    encoding: Encoding,
    form: type[QuantizedTensor] | None = None,
) -> ConversionPlan:
    """Return the plan of a tensor without scales, quantized to `form` if it is not None.

    `parts` are the rows of the source that it is, one run after another.
    """
    first = parts[0]
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    dtype = _plain_dtype(name, first, encoding)
    outputs = [(OutputTensor(name, dtype, shape), 1)]
    if form is not None:
        outputs = list(_tensors(form, name, form.stored_shapes(shape)))
    unit = lcm(*(group for _, group in outputs))
    step = unit * max(1, TASK_BYTES // (unit * _row_bytes(first)))

    def task(start: int) -> ConversionTask:
        def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
            array = np.concatenate(arrays)
            array = array if form else array.astype(DTYPES[dtype], copy=False)
            if not np.isfinite(array).all():
                raise ValueError(f"{first.file}: {name} must be finite, got NaN or infinity")
            encoded = [array]
            if form is not None:
                encoded = stored_arrays(form.quantize(array, f"{first.file}: {name}"))
            return _chunks(outputs, start, encoded)

        sources = tuple(_overlap(parts, start, start + step))
        return ConversionTask(f"{name} {start}", sources, convert)

    tasks = [task(start) for start in range(0, shape[0], step)]
    return ConversionPlan([output for output, _ in outputs], tasks, {name: form} if form else {})


def _overlap(parts: Sequence[TensorInfo], start: int, stop: int) -> Iterator[TensorInfo]:
    """Yield what rows `start` to `stop` of a tensor have of each of its parts."""
    first = 0
    for part in parts:
        begin, end = max(start - first, 0), min(stop - first, part.shape[0])
        if begin < end:
            yield _rows(part, begin, end - begin)
        first += part.shape[0]


def _plain_dtype(name: str, info: TensorInfo, encoding: Encoding) -> str:
    """Return the dtype to write: the encoding's for matrices alone; float32 for routers."""
    if ROUTER in name:
        return "F32"
    is_matrix = len(info.shape) == 2
    return encoding.stored(info.dtype) if is_matrix else WIDENED.get(info.dtype, info.dtype)


def quantized(
    layout: StoredLayout,
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
    forms: Mapping[str, type[QuantizedTensor]] = MappingProxyType({}),
) -> ConversionPlan:
    """Return the plan of weights in a storage format, which stay in it or become plain arrays.

    Those in `forms` are quantized to another format.
    """
    weights = {
        name: list(_outputs(layout.form, name, shapes, encoding, forms.get(name)))
        for name, shapes in layout.weights.items()
    }

    def task(part: LayoutPart) -> ConversionTask:
        sources = tuple(_rows(infos[rows.tensor], rows.start, rows.length) for rows in part.rows)

        def convert(arrays: list[np.ndarray]) -> list[TensorChunk]:
            chunks = []
            for name, start, weight in part.weights(arrays):
                where = f"{sources[0].file}: {name}"
                encoded = encoding.encode(where, weight, forms.get(name))
                chunks += _chunks(weights[name], start, encoded)
            return chunks

        return ConversionTask(part.key, sources, convert)

    as_stored = dict.fromkeys(weights, layout.form) if encoding.is_as_stored else {}
    return ConversionPlan(
        [output for outputs in weights.values() for output, _ in outputs],
        [task(part) for part in task_parts(layout)],
        as_stored | {name: forms[name] for name in weights if name in forms},
    )


def _outputs(
    stored: type[QuantizedTensor],
    name: str,
    shapes: WeightShapes,
    encoding: Encoding,
    form: type[QuantizedTensor] | None,
) -> Iterator[tuple[OutputTensor, int]]:
    """Yield the output tensors of a weight, and of how many of its rows each has a row."""
    if form is not None:
        yield from _tensors(form, name, form.stored_shapes(shapes.shape))
    elif encoding.is_as_stored:
        yield from _tensors(stored, name, shapes.tensors)
    else:
        yield OutputTensor(name, encoding.stored(""), shapes.shape), 1


def _tensors(
    form: type[QuantizedTensor], name: str, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[OutputTensor, int]]:
    """Yield the tensors of a format, of these shapes by field, as `_outputs` does."""
    names, groups = form.tensor_names(name), form.row_groups(name, shapes)
    for field, _, stored, _, file_dtype in form.tensors:
        dtype = file_dtype or dtype_name(stored)
        yield OutputTensor(names[field], dtype, shapes[field]), groups[field]


def _chunks(
    outputs: Sequence[tuple[OutputTensor, int]], start: int, encoded: Sequence[np.ndarray]
) -> list[TensorChunk]:
    """Return the arrays of rows of a weight from `start` on, as chunks of its output tensors."""
    return [
        TensorChunk.at_row(output.name, start // group, array)
        for (output, group), array in zip(outputs, encoded, strict=True)
    ]


def _rows(info: TensorInfo, start: int, count: int) -> TensorInfo:
    """Return the TensorInfo of `count` rows of a tensor from row `start` on."""
    begin = info.begin + start * _row_bytes(info)
    end = begin + count * _row_bytes(info)
    return info._replace(shape=(count, *info.shape[1:]), begin=begin, end=end)


def _row_bytes(info: TensorInfo) -> int:
    return info.nbytes // info.shape[0]
