"""Reader and writer of config.json in two spellings: the hub's (MiMoConfig's) and transformers'.

A file that transformers read and saved again has both. Where they conflict, transformers' wins,
because the weights beside such a file are those of the model that transformers built.

Source: hub config.json of XiaomiMiMo/MiMo-V2-Flash, -V2.5, -V2.5-Pro and -V2.6-Flash; transformers
5.23 configuration_mimo_v2_flash.py and modeling_mimo_v2_flash.py (MiMoV2FlashAttention.__init__).
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from .config_defaults import BLOCK_SIZE, MODEL_TYPE, absent_fields, resolve_hub_class
from .config_features import (
    CONVERSION,
    EXPERT_FORMATS,
    FULL,
    FUSED,
    HUB_FEATURES,
    LAYOUT,
    NESTED,
    QUANTIZATION,
    ROPE,
    ROUTER_DTYPE,
    ROUTER_DTYPES,
    SLIDING,
    STORE_DTYPE,
    SUPPORTED,
    WITHOUT_EFFECT,
)
from .config_keys import KeyRules, check_keys
from .config_presets import HubLayout
from .config_rules import refuse
from .gguf_files import as_folder
from .json_object import parse_json_object, shorten

__all__ = ["locate", "read", "read_layout", "to_hub"]

# Defaults of missing fields, and of nulls, on which the hub's code and transformers agree.
_ABSENT = {
    "routed_scaling_factor": 1.0,
    "initializer_range": 0.02,
    "eos_token_id": None,
    "fused_qkv_weight_order": None,
}
_NULL = {"routed_scaling_factor": 1.0, "attention_value_scale": 1.0}
HUB_CLASS = "MiMoV2Config"


def _as_written(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _plus_one(value: Any) -> Any:
    return value + 1 if type(value) is int else value


def _twice(value: Any) -> Any:
    return value * 2 if type(value) is int else value


def _index_in(*names: str) -> Callable[[Any], Any]:
    """Return a function from a list of names to indices; MiMoConfig refuses unknown names."""

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return tuple(names.index(item) if item in names else item for item in value)

    return read


class FieldMapping(NamedTuple):
    """A field of MiMoConfig, its key in a config.json, and how to read the value."""

    field: str
    key: str
    read: Callable[[Any], Any] = _as_written


_TRANSFORMERS = (
    FieldMapping("layernorm_epsilon", "rms_norm_eps"),
    FieldMapping(
        "hybrid_layer_pattern", "layer_types", _index_in("full_attention", "sliding_attention")
    ),
    FieldMapping("moe_layer_freq", "mlp_layer_types", _index_in("dense", "sparse")),
    FieldMapping("rope_theta", f"{FULL}.rope_theta"),
    FieldMapping("swa_rope_theta", f"{SLIDING}.rope_theta"),
    FieldMapping("partial_rotary_factor", f"{FULL}.partial_rotary_factor"),
    FieldMapping("rope_theta", f"{ROPE}.rope_theta"),  # MiMo-V2.6: one set, for the full layers
    FieldMapping("partial_rotary_factor", f"{ROPE}.partial_rotary_factor"),
    FieldMapping("sliding_window", "sliding_window"),
)
_CONVERTED = (  # what converters of MiMo-V2.5 and V2.6 write: [q | k | v], no longer rank by rank
    FieldMapping(
        "fused_qkv_weight_order", f"{CONVERSION}.qkv_layout", {"global_q_k_v": "plain"}.get
    ),
    FieldMapping(
        "fused_qkv_weight_order", f"{QUANTIZATION}.quant_method", {"modelopt": "plain"}.get
    ),
)
# MiMoV2FlashAttention computes these fields and ignores the hub's keys for them.
_BUILT_BY_TRANSFORMERS = (
    FieldMapping("swa_num_attention_heads", "num_attention_heads"),
    FieldMapping("swa_num_key_value_heads", "num_key_value_heads", _twice),
    FieldMapping("swa_head_dim", "head_dim"),
    FieldMapping("swa_v_head_dim", "v_head_dim"),
    FieldMapping("add_swa_attention_sink_bias", "layer_types", lambda _: True),
    FieldMapping("add_full_attention_sink_bias", "layer_types", lambda _: False),
)
_USED = {
    *(mapping.key for mapping in (*_TRANSFORMERS, *_BUILT_BY_TRANSFORMERS, *_CONVERTED)),
    *("sliding_window_size", BLOCK_SIZE, f"{SLIDING}.partial_rotary_factor"),
}


def locate(path: str | PathLike[str]) -> Path:
    """Return the config.json at or in `path`; raise FileNotFoundError if there is none."""
    path = as_folder(path)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; give config.json or the folder that has it")
    return file


def read(file: Path, fields: Collection[str]) -> dict[str, Any]:
    """Return the value of each of `fields` in the config.json `file`, not yet validated.

    Raises
    ------
    ValueError
        The file is no JSON object, has a feature that is not computed, or lacks a field.
    """
    entries = _entries(file)
    rules = KeyRules(_USED.union(fields), SUPPORTED, WITHOUT_EFFECT)
    check_keys(file, entries, rules, stacklevel=4)
    _resolve(entries)
    built = "layer_types" in entries and entries.get("model_type") == "mimo_v2_flash"
    mappings = (
        *_TRANSFORMERS,
        *(_BUILT_BY_TRANSFORMERS if built else ()),
        *(FieldMapping(name, name) for name in fields if name != "sliding_window"),
        FieldMapping("sliding_window", "sliding_window_size", _plus_one),
        *_CONVERTED,
    )
    values = _ABSENT | _first_values(mappings, entries, file)
    if entries.get("model_type") == MODEL_TYPE:
        values |= _absent(values, file)
    if missing := {m.field: m.key for m in mappings if m.field not in values}:
        raise ValueError(f"missing: {', '.join(missing.values())}")
    return values


def read_layout(file: Path) -> HubLayout:
    """Return how the files beside `file`, a config.json that `read` takes, store the weights."""
    entries = _entries(file)
    return HubLayout(
        entries.get(LAYOUT) == FUSED,
        EXPERT_FORMATS[entries.get(STORE_DTYPE)],
        ROUTER_DTYPES[entries.get(ROUTER_DTYPE)],
    )


def to_hub(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` as a config.json in the hub's spelling, with the supported features."""
    # The hub counts the keys before a token, without the token, in three fields that are equal.
    windows = ("sliding_window", "sliding_window_size", "attention_chunk_size")
    fields = {
        k: item for k, item in fields.items() if (k, item) != ("fused_qkv_weight_order", None)
    }
    return {
        "architectures": ["MiMoV2FlashForCausalLM"],
        **{key: allowed[0] for key, allowed in HUB_FEATURES.items()},
        **{key: list(item) if isinstance(item, tuple) else item for key, item in fields.items()},
        **dict.fromkeys(windows, fields["sliding_window"] - 1),
    }


def _entries(file: Path) -> dict[str, Any]:
    return dict(_flat(parse_json_object(file.read_bytes())))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield keys and values; a key of one of the `NESTED` objects is `object.key`."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if key in NESTED and isinstance(value, dict):
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _resolve(entries: dict[str, Any]) -> None:
    """Replace nulls, and settle the window and the rotary factors, in place."""
    entries |= {key: value for key, value in _NULL.items() if entries.get(key, value) is None}
    if "layer_types" not in entries:
        resolve_hub_class(entries)
    # The hub's sliding_window repeats its sliding_window_size; transformers' is one more, for the
    # token itself. Alone in a file of the hub's it could be either: it is ignored there.
    window, before = entries.pop("sliding_window", None), entries.get("sliding_window_size")
    if window != before and (before is not None or "layer_types" in entries):
        entries["sliding_window"] = window
    # MiMoV2FlashRotaryEmbedding takes 0.334 for a layer type without a factor.
    kinds = [kind for kind in (FULL, SLIDING) if f"{kind}.rope_theta" in entries]
    factors = [entries.setdefault(f"{kind}.partial_rotary_factor", 0.334) for kind in kinds]
    if factors and factors[0] != factors[-1]:
        refuse(f"{SLIDING}.partial_rotary_factor", factors[-1], f"the full layers', {factors[0]}")


def _absent(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the defaults of the fields that are left out, and name them in a warning."""
    absent = absent_fields(values)
    if absent:
        listed = ", ".join(f"{field} = {shorten(value)}" for field, value in absent.items())
        message = f"{file}: left out, and taken from the hub's class {HUB_CLASS}: {listed}"
        warnings.warn(message, stacklevel=4)
    return absent


def _first_values(
    mappings: Iterable[FieldMapping], entries: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """Return each field's value by its first mapping; warn where a later one conflicts."""
    first: dict[str, tuple[str, Any]] = {}
    for field, key, read_value in mappings:
        if entries.get(key) is None or (value := read_value(entries[key])) is None:
            continue
        first_key, first_value = first.setdefault(field, (key, value))
        if first_key != key and first_value != value:  # NaN differs from itself
            values = f"{first_key} gives {first_value!r}, {key} gives {value!r}"
            message = f"{file}: {field}: conflicting values: {values}; using {first_key}"
            warnings.warn(message, stacklevel=4)
    return {field: value for field, (_, value) in first.items()}
