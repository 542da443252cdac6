"""What the hub's checkpoint of a model holds, without its bytes: every tensor's dtype and shape.

Source: the hub's files of XiaomiMiMo/MiMo-V2-Flash, and of MiMo-V2.5 where `fused`. MiMo-V2-Flash:
311.86 GB, and 1.19 GB of predictors.
"""

from collections.abc import Iterator
from math import prod

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.block_scale import BLOCK

from . import param_specs
from .fp8 import HALF_BLOCK
from .param_specs import ParamSpec
from .safetensors_file import DTYPES
from .source import TensorInfo

__all__ = ["hub_tensors", "mtp_tensors"]

NUM_MTP_LAYERS = 3  # no config.json says how many


def hub_tensors(config: MiMoConfig, *, fused: bool = False) -> dict[str, TensorInfo]:
    """Return the tensors of `config` by name, scales among them and predictors not.

    Their files are not named and each begins at byte 0.
    """
    return dict(_stored(param_specs.all_params(config, fused=fused), config, _crossing(config)))


def mtp_tensors(config: MiMoConfig) -> dict[str, TensorInfo]:
    """Return the tensors of the multi-token predictors."""
    prefixes = (f"{param_specs.MTP_PREFIX}layers.{index}" for index in range(NUM_MTP_LAYERS))
    declared = (weight for prefix in prefixes for weight in param_specs.mtp(prefix, config))
    return dict(_stored(declared, config, set()))


def _stored(
    declared: Iterator[ParamSpec], config: MiMoConfig, crossing: set[str]
) -> Iterator[tuple[str, TensorInfo]]:
    for name, shape in declared:
        dtype = param_specs.stored_dtype(name)
        yield name, _place(dtype, shape)
        if dtype == "F8_E4M3":
            # A row of scales begins anew with each tensor-parallel rank that it was quantised on.
            in_runs = name in crossing or name.endswith(param_specs.FUSED)
            runs = config.num_key_value_heads if in_runs else 1
            grid = runs * -(-shape[0] // runs // BLOCK), -(-shape[1] // BLOCK)
            yield name + param_specs.SCALE, _place("F32", grid)


def _crossing(config: MiMoConfig) -> set[str]:
    """Return the names of the keys whose last block of scales goes on into the values."""
    found = set()
    for index, spec in enumerate(config.layers):
        a = spec.attention
        is_cut = a.head_dim % BLOCK and not (a.head_dim % HALF_BLOCK or a.v_head_dim % BLOCK)
        if is_cut and a.num_kv_heads == config.num_key_value_heads:
            found.add(param_specs.attention(f"model.layers.{index}", a, spec.hidden_size)[1].name)
    return found


def _place(dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    return TensorInfo("", dtype, shape, 0, prod(shape) * DTYPES[dtype].itemsize)
