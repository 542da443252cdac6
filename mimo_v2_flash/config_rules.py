"""Validation of MiMoConfig: the allowed values of each field, and of fields beside each other."""

import operator
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NoReturn

from .json_object import shorten

__all__ = ["QKV_ORDERS", "PerLayer", "QKVOrder", "TokenIds", "check", "refuse", "rotary_dim"]

PerLayer = tuple[int, ...]
TokenIds = int | tuple[int, ...] | None
QKVOrder = str | None
QKV_ORDERS = (None, "interleaved", "plain")


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Raise a ValueError that names a field, its value and what is allowed.

    Parameters
    ----------
    field : str
        Name of the field.
    value : object
        Its value.
    allowed : str
        What is allowed, in words.
    """
    raise ValueError(f"{field} = {shorten(value)}: allowed is {allowed}")


def rotary_dim(factor: float, head_dim: int) -> int:
    """Return how many of `head_dim` dimensions are rotated, truncated as in transformers."""
    return int(head_dim * factor)


def check(config: Any) -> None:
    """Raise ValueError at the first field of the dataclass `config` that breaks a rule."""
    for field in fields(config):
        value, (is_allowed, allowed) = getattr(config, field.name), _BY_TYPE[field.type]
        if not is_allowed(value):
            refuse(field.name, value, allowed)
        if field.type is int and value > (largest := _LARGEST.get(field.name, WIDEST)):
            refuse(field.name, value, f"at most {largest:,}")
    for name, holds, relation, other in _RELATIONS:
        value, bound = getattr(config, name), getattr(config, other)
        if not holds(value, bound):
            refuse(name, value, f"{relation} {other} = {bound}")


def _is_whole(value: Any) -> bool:
    return _is_integer(value) and 0 <= value < 2**31  # an array has no longer axis


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    # The upper bound refuses NaN, infinity, and integers that no float can hold.
    return (_is_integer(value) or isinstance(value, float)) and 0 < value <= sys.float_info.max


def _is_per_layer(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_whole(item) and item <= 1 for item in value)


def _is_token_ids(value: Any) -> bool:
    return value is None or all(map(_is_whole, value if isinstance(value, tuple) else (value,)))


def _is_multiple(value: int, of: int) -> bool:
    return value % of == 0


def _has_length(value: PerLayer, length: int) -> bool:
    return len(value) == length


def _rotates_pairs(factor: float, head_dim: int) -> bool:
    # Above 1 first: the product of a huge factor is no integer.
    return factor <= 1 and (rotated := rotary_dim(factor, head_dim)) > 0 and rotated % 2 == 0


# Type of a field -> (predicate of its allowed values, their description).
_BY_TYPE: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (lambda value: _is_whole(value) and value > 0, "an integer above 0, below 2**31"),
    float: (_is_positive, "a finite number above 0"),
    PerLayer: (_is_per_layer, "a tuple of zeros and ones"),
    TokenIds: (_is_token_ids, "None, an integer of at least 0, or a tuple of such integers"),
    QKVOrder: (lambda value: value in QKV_ORDERS, " or ".join(map(repr, QKV_ORDERS))),
}

# Above every model; a plan of the rows of larger arrays would itself take the memory.
WIDEST = 1 << 20
_LARGEST = {
    "vocab_size": 1 << 24,
    "max_position_embeddings": 2**31 - 1,
    "sliding_window": 2**31 - 1,
    "n_routed_experts": 1 << 14,
}

# (field, predicate of its value and another field's, description of the relation, other field).
_RELATIONS: tuple[tuple[str, Callable[[Any, Any], bool], str, str], ...] = (
    ("num_attention_heads", _is_multiple, "a multiple of", "num_key_value_heads"),
    ("swa_num_attention_heads", _is_multiple, "a multiple of", "swa_num_key_value_heads"),
    ("partial_rotary_factor", _rotates_pairs, "at most 1, rotating whole pairs of", "head_dim"),
    ("partial_rotary_factor", _rotates_pairs, "at most 1, rotating whole pairs of", "swa_head_dim"),
    ("num_experts_per_tok", operator.le, "at most", "n_routed_experts"),
    ("n_routed_experts", _is_multiple, "a multiple of", "num_devices"),
    ("hybrid_layer_pattern", _has_length, "one number for each of", "num_hidden_layers"),
    ("moe_layer_freq", _has_length, "one number for each of", "num_hidden_layers"),
)
