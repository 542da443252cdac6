"""Conversion plans of checkpoints whose weights are quantized, as a request and a topology say."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from mimo_v2_flash.checkpoint.isq_table import StoredWeight, isq_table
from mimo_v2_flash.checkpoint.param_specs import ParamSpec, attention, layers
from mimo_v2_flash.checkpoint.safetensors_file import READABLE, TensorInfo
from mimo_v2_flash.config import MiMoConfig

from .encoding import Encoding
from .plan import ConversionPlan, plan_conversion

__all__ = ["plan_isq"]


def plan_isq(
    config: MiMoConfig,
    params: Sequence[ParamSpec],
    infos: Mapping[str, TensorInfo],
    encoding: Encoding,
) -> ConversionPlan:
    """Return the plan of a conversion, and fill the `table` of its encoding if that quantizes.

    Parameters and errors are those of `plan_conversion`.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    params : sequence of ParamSpec
        The parameters to write.
    infos : mapping of str to TensorInfo
        Tensors of the source, by name.
    encoding : Encoding
        How weights are written.
    """
    plan = plan_conversion(config, params, infos, encoding)
    if not encoding.request.text:
        return plan
    shapes = {param.name: param.shape for param in _split(config, infos)} | dict(params)
    encoding.table = isq_table(_stored_weights(plan, shapes), encoding.request)
    return plan_conversion(config, params, infos, encoding)


def _split(config: MiMoConfig, infos: Mapping[str, TensorInfo]) -> Iterator[ParamSpec]:
    """Yield q, k and v of every layer, which a checkpoint may have fused."""
    for prefix, spec in layers(config, infos):
        yield from attention(prefix, spec.attention, spec.hidden_size)


def _stored_weights(
    plan: ConversionPlan, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[StoredWeight]:
    """Yield the weights of a plan that converts none, in its order."""
    outputs = {output.name: output for output in plan.outputs}
    owners = {
        name: weight
        for weight, form in plan.formats.items()
        for name in form.tensor_names(weight).values()
    }
    for weight in dict.fromkeys(owners.get(name, name) for name in outputs):
        form = plan.formats.get(weight)
        names = form.tensor_names(weight).values() if form else (weight,)
        size = sum(prod(outputs[n].shape) * READABLE[outputs[n].dtype].itemsize for n in names)
        stored = form.format if form else outputs[weight].dtype
        yield StoredWeight(weight, shapes[weight], stored, size)
