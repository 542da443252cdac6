"""What a prepared checkpoint of a model holds, and how each tensor of the source gets there."""

from collections.abc import Mapping, Sequence

from mimo_v2_flash.config import LayerSpec, MiMoConfig

from . import conversion_tasks, fp8, param_specs
from .conversion_tasks import Coded, Recipe
from .encoding import Encoding
from .param_specs import Declared
from .safetensors_file import DTYPES
from .source import Place

__all__ = ["declared_weights", "needed", "write_recipe"]


def declared_weights(
    config: MiMoConfig, experts: Sequence[int], available: Sequence[str]
) -> list[Declared]:
    """Return the weights of a model with `experts`, in the layout that `available` names have."""
    return list(param_specs.every_weight(config, experts, fused=param_specs.is_fused(available)))


def needed(declared: Sequence[Declared], available: Sequence[str]) -> list[str]:
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


def write_recipe(
    config: MiMoConfig,
    declared: Sequence[Declared],
    places: Mapping[str, Place],
    encoding: Encoding,
) -> Recipe:
    """Return how the tensors at `places` become a prepared checkpoint.

    Raises
    ------
    ValueError
        If a tensor has another shape or dtype than was declared; the message names file and tensor.
    """
    for weight in declared:
        _check(weight, places)
    whole, done = Recipe([], []), set()
    for index, spec in enumerate(config.layers):
        together, recipe = _attention(f"model.layers.{index}", spec, config, places, encoding)
        done |= together
        _extend(whole, recipe)
    for name, place in places.items():
        if name in done or name.endswith(param_specs.SCALE):
            continue
        scale = places.get(name + param_specs.SCALE)
        coded = scale and Coded(name, place, scale)
        recipe = (
            conversion_tasks.scaled(coded, encoding)
            if coded
            else conversion_tasks.plain(name, place, encoding)
        )
        _extend(whole, recipe)
    return whole


def _check(weight: Declared, places: Mapping[str, Place]) -> None:
    place, scale = places[weight.name], places.get(weight.name + param_specs.SCALE)
    where = f"{place.file}: {weight.name}"
    if place.shape != weight.shape:
        raise ValueError(f"{where} is {place.shape}, the config asks for {weight.shape}")
    if place.dtype not in DTYPES:
        raise ValueError(f"{where} is {place.dtype}, expected one of {', '.join(DTYPES)}")
    scale_dtype = DTYPES.get(scale.dtype, scale.dtype) if scale else None
    param_specs.check_dtypes(where, DTYPES[place.dtype], scale_dtype)


def _attention(
    prefix: str,
    spec: LayerSpec,
    config: MiMoConfig,
    places: Mapping[str, Place],
    encoding: Encoding,
) -> tuple[set[str], Recipe]:
    """Return what of a layer's attention must be read together, and its recipe."""
    a = spec.attention
    heads = fp8.Heads(a.num_heads, a.num_kv_heads, a.head_dim, a.v_head_dim)
    q, k, v, *_ = (weight.name for weight in param_specs.attention(prefix, a, spec.hidden_size))
    whole = f"{prefix}.{param_specs.FUSED}"
    if whole in places:
        coded, ranks = _coded(whole, places), config.num_key_value_heads
        return {whole}, conversion_tasks.fused(coded, (q, k, v), heads, ranks, encoding)
    if k + param_specs.SCALE not in places or v + param_specs.SCALE not in places:
        return set(), Recipe([], [])
    w_k, w_v = _coded(k, places), _coded(v, places)
    if not fp8.crosses(f"{w_k.code.file}: {k}", w_k.shapes, w_v.shapes, heads):
        return set(), Recipe([], [])
    return {k, v}, conversion_tasks.crossing(w_k, w_v, heads, encoding)


def _coded(name: str, places: Mapping[str, Place]) -> Coded:
    return Coded(name, places[name], places[name + param_specs.SCALE])


def _extend(whole: Recipe, more: Recipe) -> None:
    whole.outputs.extend(more.outputs)
    whole.pieces.extend(more.pieces)
