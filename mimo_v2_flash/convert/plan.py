"""Building of conversion plans: which tensors a prepared checkpoint has, and how each is made."""

from collections.abc import Mapping, Sequence

from mimo_v2_flash.checkpoint import fp8, param_specs
from mimo_v2_flash.checkpoint.param_specs import ParamSpec
from mimo_v2_flash.checkpoint.safetensors_file import DTYPES
from mimo_v2_flash.checkpoint.source import TensorInfo
from mimo_v2_flash.config import LayerSpec, MiMoConfig

from . import tasks as conversion_tasks
from .encoding import Encoding
from .tasks import ConversionPlan, QuantizedTensorInfo

__all__ = ["expected_params", "plan_conversion", "required_tensors"]


def expected_params(
    config: MiMoConfig, experts: Sequence[int], available: Sequence[str]
) -> list[ParamSpec]:
    """Return the parameters of a model with `experts`, fused or split as in `available`."""
    return list(param_specs.all_params(config, experts, fused=param_specs.is_fused(available)))


def required_tensors(params: Sequence[ParamSpec], available: Sequence[str]) -> list[str]:
    """Return the names of the tensors to read: `params`, and their scales where available.

    Raises
    ------
    ValueError
        If a parameter is missing.
    """
    names = set(available)
    if missing := [param.name for param in params if param.name not in names]:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]} is missing{more}")
    scales = [param.name + param_specs.SCALE for param in params]
    return [param.name for param in params] + [name for name in scales if name in names]


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
    for param in params:
        _check(param, infos)
    result, done = ConversionPlan([], []), set()
    for index, spec in enumerate(config.layers):
        names, plan = _attention(f"model.layers.{index}", spec, config, infos, encoding)
        done |= names
        _extend(result, plan)
    for name, info in infos.items():
        if name in done or name.endswith(param_specs.SCALE):
            continue
        scale = infos.get(name + param_specs.SCALE)
        if scale:
            plan = conversion_tasks.scaled(QuantizedTensorInfo(name, info, scale), encoding)
        else:
            plan = conversion_tasks.plain(name, info, encoding)
        _extend(result, plan)
    return result


def _check(param: ParamSpec, infos: Mapping[str, TensorInfo]) -> None:
    info, scale = infos[param.name], infos.get(param.name + param_specs.SCALE)
    where = f"{info.file}: {param.name}"
    if info.shape != param.shape:
        raise ValueError(f"{where} is {info.shape}, the config asks for {param.shape}")
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
    """Return the tensors of a layer's attention to convert together, and the plan for them."""
    a = spec.attention
    heads = fp8.Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    q, k, v, *_ = (param.name for param in param_specs.attention(prefix, a, spec.hidden_size))
    qkv = f"{prefix}.{param_specs.FUSED}"
    if qkv in infos:
        w_qkv, ranks = _quantized(qkv, infos), config.num_key_value_heads
        return {qkv}, conversion_tasks.fused(w_qkv, (q, k, v), heads, ranks, encoding)
    if k + param_specs.SCALE not in infos or v + param_specs.SCALE not in infos:
        return set(), ConversionPlan([], [])
    w_k, w_v = _quantized(k, infos), _quantized(v, infos)
    if not fp8.crosses(f"{w_k.code.file}: {k}", w_k.shapes, w_v.shapes, heads):
        return set(), ConversionPlan([], [])
    return {k, v}, conversion_tasks.crossing(w_k, w_v, heads, encoding)


def _quantized(name: str, infos: Mapping[str, TensorInfo]) -> QuantizedTensorInfo:
    return QuantizedTensorInfo(name, infos[name], infos[name + param_specs.SCALE])


def _extend(plan: ConversionPlan, more: ConversionPlan) -> None:
    plan.outputs.extend(more.outputs)
    plan.tasks.extend(more.tasks)
