"""What the hub's classes make of a config.json that leaves fields out, or has the short spelling.

Source: configuration_mimo_v2.py (`MiMoV2Config.__init__`) of XiaomiMiMo/MiMo-V2.5, and
configuration_mimo_v2_flash.py of MiMo-V2-Flash, which has `hybrid_block_size` too.
"""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from .config_rules import WIDEST, refuse

__all__ = ["BLOCK_SIZE", "MODEL_TYPE", "absent_fields", "resolve_hub_class"]

MODEL_TYPE, BLOCK_SIZE, PATTERN = "mimo_v2", "hybrid_block_size", "hybrid_layer_pattern"


def _size(value: Any) -> int:
    """Return a size; 0 where it is none: MiMoConfig refuses it by its name."""
    return value if type(value) is int and 0 < value <= WIDEST else 0


def _zeros(values: Mapping[str, Any]) -> tuple[int, ...]:
    return (0,) * _size(values["num_hidden_layers"])  # full attention, dense networks


def _head_dim(values: Mapping[str, Any]) -> int:
    return _size(values["hidden_size"]) // max(1, _size(values["num_attention_heads"]))


# In this order: some are other fields. No size of the model has a default.
_DEFAULTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "head_dim": _head_dim,
    "v_head_dim": itemgetter("head_dim"),
    "swa_num_attention_heads": itemgetter("num_attention_heads"),
    "swa_num_key_value_heads": itemgetter("num_key_value_heads"),
    "swa_head_dim": itemgetter("head_dim"),
    "swa_v_head_dim": itemgetter("swa_head_dim"),
    "rope_theta": lambda _: 10_000.0,
    "swa_rope_theta": itemgetter("rope_theta"),
    "partial_rotary_factor": lambda _: 1.0,
    "layernorm_epsilon": lambda _: 1e-6,
    "attention_value_scale": lambda _: 1.0,  # the class's None: values are not scaled
    "add_full_attention_sink_bias": lambda _: False,
    "add_swa_attention_sink_bias": lambda _: False,
    PATTERN: _zeros,
    "moe_layer_freq": _zeros,
    "moe_intermediate_size": itemgetter("intermediate_size"),
}


def absent_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `values` lacks and that `MiMoV2Config` has defaults of, with these.

    A default that is another field, which is missing too, is left out.
    """
    filled = dict(values)
    for field, default in _DEFAULTS.items():
        if field not in filled:
            try:
                filled[field] = default(filled)
            except KeyError:
                continue
    return {field: value for field, value in filled.items() if field not in values}


def resolve_hub_class(entries: dict[str, Any]) -> None:
    """Write out the short spellings of a config.json without `layer_types`, in place.

    Raises
    ------
    ValueError
        If `hybrid_block_size` takes the place of a pattern and is no integer above 0.
    """
    size = entries.get(BLOCK_SIZE)
    if entries.get(PATTERN) is None and size is not None:
        if not _size(size):
            refuse(BLOCK_SIZE, size, "an integer above 0")
        layers = range(_size(entries.get("num_hidden_layers")))
        entries[PATTERN] = [int((layer + 1) % size != 0) for layer in layers]
    if entries.get("model_type") == MODEL_TYPE:
        entries["moe_layer_freq"] = _moe_layers(entries)
        if entries.get("sliding_window_size") is None:
            entries["sliding_window_size"] = entries.get("sliding_window")


def _moe_layers(entries: Mapping[str, Any]) -> Any:
    """Return `moe_layer_freq` as a list: an integer n is each n-th layer, and 0 is none."""
    value = entries.get("moe_layer_freq")
    if type(value) is int:
        layers = range(_size(entries.get("num_hidden_layers")))
        return [int(value > 0 and layer % value == 0) for layer in layers]
    if isinstance(value, list):  # of booleans, as the class saves an integer
        return [int(item) if isinstance(item, bool) else item for item in value]
    return value
