"""Dtypes and shapes of all tensors of the hub's checkpoint of a model, without its bytes.

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash, and of MiMo-V2.5 where `fused`. MiMo-V2-Flash:
311.86 GB, and 1.19 GB of MTP weights.
"""

from collections.abc import Iterator
from math import prod

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.quantization.fp8 import BLOCK

from . import param_specs
from .fp8 import HALF_BLOCK
from .param_specs import ParamSpec
from .safetensors_file import DTYPES
from .source import TensorInfo

__all__ = ["hub_tensors", "mtp_tensors"]

NUM_MTP_LAYERS = 3  # no config.json says how many


def hub_tensors(config: MiMoConfig, *, fused: bool = False) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor of `config` by name: with scales, without MTP weights.

    File names are empty, and each tensor begins at byte 0.
    """
    return dict(_stored(param_specs.all_params(config, fused=fused), config, _crossing(config)))


def mtp_tensors(config: MiMoConfig) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor of the MTP layers by name."""
    prefixes = (f"{param_specs.MTP_PREFIX}layers.{index}" for index in range(NUM_MTP_LAYERS))
    params = (param for prefix in prefixes for param in param_specs.mtp(prefix, config))
    return dict(_stored(params, config, set()))


def _stored(
    params: Iterator[ParamSpec], config: MiMoConfig, crossing: set[str]
) -> Iterator[tuple[str, TensorInfo]]:
    for name, shape in params:
        dtype = param_specs.stored_dtype(name)
        yield name, _tensor_info(dtype, shape)
        if dtype == "F8_E4M3":
            # Scale rows begin anew on each tensor-parallel rank that quantised the weight.
            by_rank = name in crossing or name.endswith(param_specs.FUSED)
            ranks = config.num_key_value_heads if by_rank else 1
            grid = ranks * -(-shape[0] // ranks // BLOCK), -(-shape[1] // BLOCK)
            yield name + param_specs.SCALE, _tensor_info("F32", grid)


def _crossing(config: MiMoConfig) -> set[str]:
    """Return the names of K weights whose last scale row covers rows of V too."""
    names = set()
    for index, spec in enumerate(config.layers):
        a = spec.attention
        ends_in_half = a.head_dim % BLOCK and not (a.head_dim % HALF_BLOCK or a.v_head_dim % BLOCK)
        if ends_in_half and a.num_kv_heads == config.num_key_value_heads:
            names.add(param_specs.attention(f"model.layers.{index}", a, spec.hidden_size)[1].name)
    return names


def _tensor_info(dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo("", dtype, shape, 0, prod(shape) * DTYPES[dtype].itemsize)
