"""What a prepared checkpoint of a model holds, and how each tensor of the source gets there."""

from collections.abc import Mapping, Sequence

from mimo_v2_flash.config import LayerSpec, MiMoConfig

from . import conversion_tasks, fp8, param_specs
from .conversion_tasks import ConversionPlan, QuantizedTensorInfo
from .encoding import Encoding
from .param_specs import ParamSpec
from .safetensors_file import DTYPES
from .source import TensorInfo

__all__ = ["declared_weights", "needed", "plan_conversion"]


def declared_weights(
    config: MiMoConfig, experts: Sequence[int], available: Sequence[str]
) -> list[ParamSpec]:
    """Return the weights of a model with `experts`, in the layout that `available` names have."""
    return list(param_specs.all_params(config, experts, fused=param_specs.is_fused(available)))


def needed(declared: Sequence[ParamSpec], available: Sequence[str]) -> list[str]:
    """Return the names to read: those declared, and scales where there are any.

    Raises
    ------
    ValueError
        If one that is declared is missing.
    """
    there = set(available)
    if missing := [weight.name for weight in declared if weight.name not in there]:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]} is missing{more}")
    scales = [weight.name + param_specs.SCALE for weight in declared]
    return [weight.name for weight in declared] + [name for name in scales if name in there]


def plan_conversion(
    config: MiMoConfig,
    declared: Sequence[ParamSpec],
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
) -> ConversionPlan:
    """Return how the tensors at `infos` become a prepared checkpoint.

    Raises
    ------
    ValueError
        If a tensor has another shape or dtype than was declared; the message names file and tensor.
    """
    for weight in declared:
        _check(weight, infos)
    whole, done = ConversionPlan([], []), set()
    for index, spec in enumerate(config.layers):
        together, plan = _attention(f"model.layers.{index}", spec, config, infos, encoding)
        done |= together
        _extend(whole, plan)
    for name, info in infos.items():
        if name in done or name.endswith(param_specs.SCALE):
            continue
        scale = infos.get(name + param_specs.SCALE)
        coded = scale and QuantizedTensorInfo(name, info, scale)
        plan = (
            conversion_tasks.scaled(coded, encoding)
            if coded
            else conversion_tasks.plain(name, info, encoding)
        )
        _extend(whole, plan)
    return whole


def _check(weight: ParamSpec, infos: Mapping[str, TensorInfo]) -> None:
    info, scale = infos[weight.name], infos.get(weight.name + param_specs.SCALE)
    where = f"{info.file}: {weight.name}"
    if info.shape != weight.shape:
        raise ValueError(f"{where} is {info.shape}, the config asks for {weight.shape}")
    if info.dtype not in DTYPES:
        raise ValueError(f"{where} is {info.dtype}, expected one of {', '.join(DTYPES)}")
    scale_dtype = DTYPES.get(scale.dtype, scale.dtype) if scale else None
    param_specs.check_dtypes(where, DTYPES[info.dtype], scale_dtype)


def _attention(
    prefix: str,
    spec: LayerSpec,
    config: MiMoConfig,
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
) -> tuple[set[str], ConversionPlan]:
    """Return what of a layer's attention must be read together, and its recipe."""
    a = spec.attention
    heads = fp8.Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    q, k, v, *_ = (weight.name for weight in param_specs.attention(prefix, a, spec.hidden_size))
    whole = f"{prefix}.{param_specs.FUSED}"
    if whole in infos:
        coded, ranks = _coded(whole, infos), config.num_key_value_heads
        return {whole}, conversion_tasks.fused(coded, (q, k, v), heads, ranks, encoding)
    if k + param_specs.SCALE not in infos or v + param_specs.SCALE not in infos:
        return set(), ConversionPlan([], [])
    w_k, w_v = _coded(k, infos), _coded(v, infos)
    if not fp8.crosses(f"{w_k.code.file}: {k}", w_k.shapes, w_v.shapes, heads):
        return set(), ConversionPlan([], [])
    return {k, v}, conversion_tasks.crossing(w_k, w_v, heads, encoding)


def _coded(name: str, infos: Mapping[str, TensorInfo]) -> QuantizedTensorInfo:
    return QuantizedTensorInfo(name, infos[name], infos[name + param_specs.SCALE])


def _extend(whole: ConversionPlan, more: ConversionPlan) -> None:
    whole.outputs.extend(more.outputs)
    whole.tasks.extend(more.tasks)
