"""GGUF's keys of a mimo2 model, and the fields of MiMoConfig that they hold, in both directions.

Source: the gguf package 0.19 (`MODEL_ARCH.MIMO2`, `Keys`) and llama.cpp 0.6's loader of mimo2.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config_rules import rotary_dim

__all__ = ["ARCHITECTURE", "WINDOW_KEYS", "KeyValue", "config_of_keys", "keys_of_config"]

ARCHITECTURE = "mimo2"
WINDOW_KEYS = "mimo_v2_flash.window_keys"
"""A key of this package: how many keys a token of a sliding layer attends to, itself included."""

HUB_WINDOW = 128  # the hub's field, without the token itself; llama.cpp's converter copies it
HUB_ROTARY_FACTOR = 0.334
INTEGERS = {
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "moe_intermediate_size": "expert_feed_forward_length",
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "num_attention_heads": "attention.head_count",
    "head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length",
}
FLOATS = {
    "layernorm_epsilon": "attention.layer_norm_rms_epsilon",
    "attention_value_scale": "attention.value_scale",
    "rope_theta": "rope.freq_base",
    "swa_rope_theta": "rope.freq_base_swa",
}
PATTERN, WINDOW = "attention.sliding_window_pattern", "attention.sliding_window"
KV_HEADS, ROTARY, HEADS = "attention.head_count_kv", "rope.dimension_count", "nextn_predict_layers"
SAME_IN_ALL_LAYERS = ("num_attention_heads", "head_dim", "v_head_dim")
SIGMOID = 2  # gguf.ExpertGatingFuncType.SIGMOID


class KeyValue(NamedTuple):
    """A key of a GGUF file, its type (a name of `gguf.GGUFValueType`) and its value."""

    name: str
    type: str
    value: Any


def keys_of_config(config: Mapping[str, Any]) -> Iterator[KeyValue]:
    """Yield the keys of a model whose fields of MiMoConfig are `config`.

    Raises
    ------
    ValueError
        If mimo2 has no key for what the model computes; the field is named.
    """
    for field in SAME_IN_ALL_LAYERS:
        if config[f"swa_{field}"] != config[field]:
            raise ValueError(
                f"swa_{field} {config[f'swa_{field}']}: in GGUF all layers have the full layers', "
                f"{config[field]}"
            )
    if config["routed_scaling_factor"] != 1:
        raise ValueError(
            f"routed_scaling_factor {config['routed_scaling_factor']}: GGUF's mimo2 has none but 1"
        )
    pattern = config["hybrid_layer_pattern"]
    kv_heads = (config["num_key_value_heads"], config["swa_num_key_value_heads"])
    rotated = rotary_dim(config["partial_rotary_factor"], config["head_dim"])
    for table, kind in ((INTEGERS, "UINT32"), (FLOATS, "FLOAT32")):
        yield from (_key(key, kind, config[field]) for field, key in table.items())
    yield _key(KV_HEADS, "ARRAY", [kv_heads[sliding] for sliding in pattern])
    yield _key(PATTERN, "ARRAY", list(map(int, pattern)))
    yield _key(WINDOW, "UINT32", config["sliding_window"])  # llama.cpp counts the token itself
    yield KeyValue(WINDOW_KEYS, "UINT32", config["sliding_window"])
    yield _key(ROTARY, "UINT32", rotated)
    yield _key("expert_gating_func", "UINT32", SIGMOID)
    yield _key("expert_weights_norm", "BOOL", True)
    yield _key(HEADS, "UINT32", 0)
    yield _key("vocab_size", "UINT32", config["vocab_size"])


def config_of_keys(
    keys: Mapping[str, Any],
    tensors: Collection[str],
    vocab_size: int,
    *,
    value_scale: float | None = None,
    window_keys: int | None = None,
) -> dict[str, Any]:
    """Return the content of a config.json, in the hub's spelling, of a file's keys and tensors.

    Parameters
    ----------
    keys
        The file's keys and values.
    tensors
        The names of its tensors: layers with a router are mixtures, layers with sinks have them.
    vocab_size
        Rows of its embedding.
    value_scale, window_keys
        The scale of values, and the keys that a token of a sliding layer attends to, where the
        file lacks or miscounts them.

    Raises
    ------
    ValueError
        If it is a file of another architecture, or lacks a key; the key is named.
    """
    if (name := keys.get("general.architecture")) != ARCHITECTURE:
        raise ValueError(f"general.architecture is {name!r}, expected {ARCHITECTURE!r}")
    values = {field: _value(keys, key) for field, key in INTEGERS.items()}
    layers = values["num_hidden_layers"] - keys.get(f"{ARCHITECTURE}.{HEADS}", 0)
    scale = FLOATS["attention_value_scale"]
    known = dict(keys) if value_scale is None else {**keys, f"{ARCHITECTURE}.{scale}": value_scale}
    values |= {field: _decimal(_value(known, key)) for field, key in FLOATS.items()}
    pattern = [int(sliding) for sliding in _value(keys, PATTERN)[:layers]]
    window = window_keys or _window(keys)
    return (
        values
        | {f"swa_{field}": values[field] for field in SAME_IN_ALL_LAYERS}
        | _kv_heads(_value(keys, KV_HEADS), pattern)
        | {
            "architectures": ["MiMoV2FlashForCausalLM"],
            "model_type": "mimo_v2_flash",
            "num_hidden_layers": layers,
            "vocab_size": vocab_size,
            "hybrid_layer_pattern": pattern,
            "moe_layer_freq": [
                int(f"blk.{i}.ffn_gate_inp.weight" in tensors) for i in range(layers)
            ],
            "partial_rotary_factor": _rotary_factor(_value(keys, ROTARY), values["head_dim"]),
            "sliding_window_size": window - 1,
            **_sinks(pattern, tensors),
        }
    )


def _key(name: str, kind: str, value: Any) -> KeyValue:
    return KeyValue(f"{ARCHITECTURE}.{name}", kind, value)


def _value(keys: Mapping[str, Any], name: str) -> Any:
    key = f"{ARCHITECTURE}.{name}"
    if key in keys:
        return keys[key]
    if name == FLOATS["attention_value_scale"]:
        raise ValueError(
            f"no key {key}: the file was made before llama.cpp wrote it, and without it every "
            "answer is wrong; --value-scale gives it (MiMo-V2-Flash's is 0.707)"
        )
    raise ValueError(f"no key {key}")


def _window(keys: Mapping[str, Any]) -> int:
    """Return how many keys a token of a sliding layer attends to, itself included."""
    window = int(_value(keys, WINDOW))
    return int(keys.get(WINDOW_KEYS, window + (window == HUB_WINDOW)))


def _decimal(value: float) -> float:
    """Return the shortest decimal number that rounds to a float32: 0.707 and not 0.70700002."""
    return float(str(np.float32(value)))


def _rotary_factor(rotated: int, head_dim: int) -> float:
    """Return a factor of which `rotated` dimensions of a head follow: the hub's if it is one."""
    candidates = (HUB_ROTARY_FACTOR, rotated / head_dim, (rotated + 0.5) / head_dim)
    return next(factor for factor in candidates if rotary_dim(factor, head_dim) == rotated)


def _kv_heads(counts: Any, pattern: list[int]) -> dict[str, int]:
    """Return the KV heads of full and of sliding layers; a file has one number, or each layer's."""
    layers = counts if isinstance(counts, list) else [counts] * len(pattern)
    kinds: tuple[set[int], ...] = (set(), set())
    for count, sliding in zip(layers, pattern, strict=False):
        kinds[sliding].add(int(count))
    if max(map(len, kinds)) > 1:
        raise ValueError(
            f"{ARCHITECTURE}.{KV_HEADS}: layers of one kind have {sorted(kinds[0])}, "
            f"{sorted(kinds[1])}, expected one number for each kind"
        )
    full, sliding = (next(iter(kind or kinds[1 - i])) for i, kind in enumerate(kinds))
    return {"num_key_value_heads": full, "swa_num_key_value_heads": sliding}


def _sinks(pattern: list[int], tensors: Collection[str]) -> dict[str, bool]:
    """Return whether full and sliding layers have sinks."""
    has = [f"blk.{index}.attn_sinks.weight" in tensors for index in range(len(pattern))]
    full, sliding = ([h for h, s in zip(has, pattern, strict=True) if s == k] for k in (0, 1))
    return {
        "add_full_attention_sink_bias": any(full),
        "add_swa_attention_sink_bias": any(sliding) or not sliding,
    }
