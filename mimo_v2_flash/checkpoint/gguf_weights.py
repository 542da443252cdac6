"""Loading of a GGUF file as ModelWeights: matrices stay memory-mapped, vectors become float32."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.gguf_files.file import GGUFFile, GGUFTensor
from mimo_v2_flash.gguf_files.tensor_names import gguf_name
from mimo_v2_flash.quantization import QuantizedTensor
from mimo_v2_flash.quantization.ggml_blocks import GgmlBlocks
from mimo_v2_flash.quantization.gguf_blocks import GGUFBlocks
from mimo_v2_flash.quantization.registry import FORMATS

from .load import ModelBuilder
from .param_specs import ParamSpec, all_params, attention, fused_attention
from .params import ModelWeights

__all__ = ["load_gguf_weights"]


def load_gguf_weights(path: Path, config: MiMoConfig) -> ModelWeights:
    """Return the weights of a GGUF file, memory-mapped: matrices are read when used.

    MTP blocks are not read, which one warning says.

    Raises
    ------
    ValueError
        If a tensor is missing, unexpected, or has another shape; file and tensor are named.
    """
    builder = _GGUFBuilder(GGUFFile(path).tensors, config)
    builder.check(path)
    return builder.model()


class _GGUFBuilder(ModelBuilder):
    """A builder of ModelWeights from the tensors of a GGUF file."""

    def __init__(self, tensors: Mapping[str, GGUFTensor], config: MiMoConfig) -> None:
        super().__init__(config, tuple(range(config.n_routed_experts)))
        self._tensors = tensors
        self._fused = "blk.0.attn_qkv.weight" in tensors

    def check(self, path: Path) -> None:
        """Raise ValueError unless the tensors are those of the config, with its shapes."""
        shapes = dict(self._shapes())
        if missing := [name for name in shapes if name not in self._tensors]:
            raise ValueError(f"{path}: {_summary(missing)} missing, which its keys ask for")
        others = [name for name in self._tensors if name not in shapes]
        layers = self._config.num_hidden_layers
        heads = [name for name in others if _layer(name) >= layers]
        if unexpected := [name for name in others if name not in heads]:
            raise ValueError(f"{path}: {_summary(unexpected)} unexpected under its keys")
        if heads:
            warnings.warn(f"{path}: {len(heads)} tensors of MTP blocks left out", stacklevel=4)
        for name, shape in shapes.items():
            if (stored := self._tensors[name]).shape != shape:
                raise ValueError(
                    f"{stored.file}: {name} is {stored.shape}, its keys ask for {shape}"
                )

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the name and the shape of every tensor that the config asks for."""
        for name, shape in all_params(self._config, experts=(0,), fused=self._fused):
            tensor, expert = gguf_name(name)
            experts = () if expert is None else (self._config.n_routed_experts,)
            yield tensor, (*experts, *shape)

    def _projections(self, prefix: str, spec: LayerSpec) -> tuple[Any, Any, Any]:
        """Return w_q, w_k and w_v, which are rows of one tensor in files of MiMo-V2.5."""
        if not self._fused:
            return super()._projections(prefix, spec)
        q, k, _, *_ = attention(prefix, spec.attention, spec.hidden_size)
        fused, *_ = fused_attention(prefix, spec.attention, spec.hidden_size)
        tensor = self._tensors[gguf_name(fused.name).name]
        ends = (0, q.shape[0], q.shape[0] + k.shape[0], fused.shape[0])
        rows = (tensor.data[begin:end] for begin, end in pairwise(ends))
        w_q, w_k, w_v = (_weight(tensor, data) for data in rows)
        return w_q, w_k, w_v

    def _matrix(self, param: ParamSpec) -> Any:
        name, expert = gguf_name(param.name)
        tensor = self._tensors[name]
        return _weight(tensor, tensor.data if expert is None else tensor.data[expert])

    def _float32(self, param: ParamSpec) -> np.ndarray:
        weight = self._matrix(param)
        array = weight.dequantize() if isinstance(weight, QuantizedTensor) else weight
        return np.asarray(array).astype(np.float32)


def _weight(tensor: GGUFTensor, data: np.ndarray) -> Any:
    """Return a matrix [O, I] as stored: an array, or a weight in one of ggml's formats."""
    if tensor.type == "BF16":
        return data.view(ml_dtypes.bfloat16)
    if data.dtype != np.uint8:  # F32, F16
        return data.astype(np.float32, copy=False)
    form = FORMATS.get(tensor.type.lower())
    if form is not None and issubclass(form, GgmlBlocks):
        return form(data)
    return GGUFBlocks(data, tensor.type)


def _layer(name: str) -> int:
    """Return the number of the layer that a tensor is of, -1 if of none."""
    prefix, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if prefix == "blk" and number.isdigit() else -1


def _summary(names: Iterable[str]) -> str:
    first, *rest = names
    return f"{first} and {len(rest)} more tensors" if rest else f"tensor {first}"
