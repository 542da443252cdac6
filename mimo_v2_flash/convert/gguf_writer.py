"""Writer of GGUF files that llama.cpp loads: a model's weights, config, tokenizer and template."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.atomic_file import naming, sync_folder
from mimo_v2_flash.checkpoint import param_specs
from mimo_v2_flash.checkpoint.param_specs import ParamSpec
from mimo_v2_flash.checkpoint.params import DecoderWeights, ModelWeights, MoEWeights
from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.gguf_files.file import SUFFIX, gguf_library
from mimo_v2_flash.gguf_files.folder import keys_of_side_files
from mimo_v2_flash.gguf_files.model_keys import ARCHITECTURE, KeyValue, keys_of_config
from mimo_v2_flash.gguf_files.tensor_names import gguf_name
from mimo_v2_flash.quantization import HUB_FORMAT, QuantizedTensor
from mimo_v2_flash.quantization.ggml_blocks import GgmlBlocks

__all__ = ["GGUFPlan", "plan_gguf"]

DTYPES = {"float32": ("F32", np.float32), "bfloat16": ("BF16", ml_dtypes.bfloat16)}
ROWS = 512  # of a matrix that are converted at a time


class _Tensor(NamedTuple):
    """A tensor to write: its name, its type's name, its logical shape, and its matrices."""

    name: str
    type: str
    shape: tuple[int, ...]
    matrices: Sequence[Any]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        library = gguf_library()
        block, size = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[self.type]]
        return int(np.prod(self.shape)) // block * size


class GGUFPlan(NamedTuple):
    """A planned GGUF file.

    Attributes
    ----------
    path
        The file to write; where it is split its name gets the part's number.
    keys
        Its keys.
    tensors
        Its tensors.
    """

    path: Path
    keys: tuple[KeyValue, ...]
    tensors: tuple[_Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def write(self, advance: Callable[[int], None], *, split_bytes: int = 0) -> list[Path]:
        """Write the file, or parts of at most `split_bytes` bytes of tensors; return their paths.

        They get their names when all are complete. `advance` is called with bytes written.

        Raises
        ------
        OSError
            If the disk is full; nothing is left there.
        """
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".gguf-") as hidden, naming(self.path):
            self._write(Path(hidden) / self.path.name, advance, split_bytes)
            written = sorted(Path(hidden).iterdir())
            for file in written:
                with file.open("r+b") as opened:
                    os.fsync(opened.fileno())
                file.replace(folder / file.name)
        sync_folder(folder)
        return [folder / file.name for file in written]

    def _write(self, path: Path, advance: Callable[[int], None], split_bytes: int) -> None:
        library = gguf_library()
        writer = library.GGUFWriter(path, ARCHITECTURE, split_max_size=split_bytes)
        writer.add_quantization_version(library.GGML_QUANT_VERSION)
        for key in self.keys:
            add = writer.add_array if key.type == "ARRAY" else writer.add_key_value
            kind = () if key.type == "ARRAY" else (library.GGUFValueType[key.type],)
            add(key.name, key.value, *kind)
        for tensor in self.tensors:
            kind = library.GGMLQuantizationType[tensor.type]
            writer.add_tensor_info(
                tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, kind
            )
        with closing(writer):
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in self.tensors:
                writer.write_tensor_data(_Stream(tensor, advance))


class _Stream:
    """A tensor as `GGUFWriter.write_tensor_data` takes an array, converted as it is written."""

    def __init__(self, tensor: _Tensor, advance: Callable[[int], None]) -> None:
        self.nbytes, self._tensor, self._advance = tensor.nbytes, tensor, advance

    def tofile(self, file: Any) -> None:
        """Write the tensor's bytes."""
        for matrix in self._tensor.matrices:
            for part in _encoded(matrix, self._tensor.type):
                part.tofile(file)
                self._advance(part.nbytes)


def plan_gguf(
    path: Path, config: MiMoConfig, weights: ModelWeights, dtype: str, side_files: Path
) -> GGUFPlan:
    """Return the plan of a GGUF file; nothing is written.

    Parameters
    ----------
    path
        The file.
    config, weights
        The model, unsharded; its MTP heads are not written.
    dtype
        "float32" or "bfloat16": of its matrices. Norms, routers, biases and sinks are float32.
        Matrices in a block format of ggml keep it.
    side_files
        The folder that has the tokenizer, the chat template and the generation defaults.

    Raises
    ------
    ValueError
        If mimo2 cannot say what the model computes, or GGUF lacks the format of a matrix.
    """
    name = KeyValue("general.name", "STRING", path.name.removesuffix(SUFFIX))
    keys = (*keys_of_config(asdict(config)), *keys_of_side_files(side_files, config.vocab_size))
    tensors = (_tensor(param, matrices, dtype) for param, matrices in _named(config, weights))
    return GGUFPlan(path, (name, *keys), tuple(tensors))


def _tensor(param: ParamSpec, matrices: Sequence[Any], dtype: str) -> _Tensor:
    name, expert = gguf_name(param.name)
    shape = param.shape if expert is None else (len(matrices), *param.shape)
    is_plain = len(param.shape) == 1 or param_specs.ROUTER in param.name
    kind = "F32" if is_plain else _type(param, matrices, dtype)
    return _Tensor(name, kind, shape, matrices)


def _type(param: ParamSpec, matrices: Sequence[Any], dtype: str) -> str:
    """Return the name of the type that a tensor is written in, one for all its matrices."""
    formats = {getattr(matrix, "format", HUB_FORMAT) for matrix in matrices}
    if formats == {HUB_FORMAT}:  # or plain arrays: of the dtype
        return DTYPES[dtype][0]
    if len(formats) > 1:
        raise ValueError(f"{param.name}: experts are {sorted(formats)}, in GGUF all are alike")
    if not isinstance(matrices[0], GgmlBlocks):
        raise ValueError(f"{param.name} is {matrices[0].format}, which GGUF does not have")
    return str(matrices[0].format).upper()


def _encoded(matrix: Any, kind: str) -> Iterator[np.ndarray]:
    """Yield the bytes of a matrix or vector, some rows at a time."""
    dtypes = dict(DTYPES.values())
    if kind not in dtypes:
        yield np.ascontiguousarray(getattr(matrix, matrix.tensors[0].field))
        return
    for start in range(0, matrix.shape[0], ROWS):
        rows = slice(start, start + ROWS)
        is_stored = isinstance(matrix, QuantizedTensor)
        part = matrix.dequantize(rows) if is_stored else np.asarray(matrix[rows])
        yield np.ascontiguousarray(part.astype(dtypes[kind], copy=False))


def _named(config: MiMoConfig, weights: ModelWeights) -> Iterator[tuple[ParamSpec, Sequence[Any]]]:
    """Yield each parameter with its matrix; of experts the first's, with all their matrices."""
    ends = (weights.embedding_VD, weights.final_norm_D, weights.w_logits_VD)
    yield from _alone(param_specs.embedding_norm_head(config), ends)
    for index, (spec, layer) in enumerate(zip(config.layers, weights.layers, strict=True)):
        yield from _layer(f"model.layers.{index}", spec, layer)


def _layer(
    prefix: str, spec: LayerSpec, layer: DecoderWeights
) -> Iterator[tuple[ParamSpec, Sequence[Any]]]:
    norms = (layer.attention_norm_D, layer.feed_forward_norm_D)
    yield from _alone(param_specs.layer_norms(prefix, spec), norms)
    attention = param_specs.attention(prefix, spec.attention, spec.hidden_size)
    yield from _alone(attention, layer.attention[: len(attention)])
    network = layer.feed_forward
    if not isinstance(network, MoEWeights):
        yield from _alone(param_specs.dense(prefix, spec), network)
        return
    yield from _alone(param_specs.router(prefix, spec), network[:2])
    yield from zip(param_specs.expert(prefix, spec, 0), network.experts.columns, strict=True)


def _alone(
    params: Sequence[ParamSpec], matrices: Iterable[Any]
) -> Iterator[tuple[ParamSpec, Sequence[Any]]]:
    return ((param, (matrix,)) for param, matrix in zip(params, matrices, strict=True))
