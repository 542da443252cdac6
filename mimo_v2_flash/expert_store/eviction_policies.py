"""Eviction policies: which of the held experts goes first.

A policy is a function that gives every held expert a value. The lowest goes first, and of equal
ones the one that was used longest ago.

Source: LRU and LFU as of Mattson et al. (1970) and arXiv:2511.05814; "class-lru" as llama.cpp's
`llama-moe-cache.cpp`, which has a list for each power of two of the decayed count.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.json_object import parse_json_object, shorten

from .access_history import AccessHistory

__all__ = ["DEFAULT_POLICY", "POLICIES", "Policy", "read_policy", "static_policy"]

STATIC, DEFAULT_POLICY = "static:", "lfu"

Value = Callable[[AccessHistory, np.ndarray], np.ndarray]
"""Returns the value of each of some experts, from all uses so far."""


class Policy(NamedTuple):
    """An eviction policy.

    Attributes
    ----------
    name
        The option's spelling.
    value
        What orders the experts.
    kept
        (layer, expert) of those that stay while any other can go.
    """

    name: str
    value: Value
    kept: Collection[tuple[int, int]] = ()


def _equal(_: AccessHistory, keys: np.ndarray) -> np.ndarray:
    return np.zeros(len(keys), np.int64)


def _count(history: AccessHistory, keys: np.ndarray) -> np.ndarray:
    return history.count_K[keys]


def _decayed(history: AccessHistory, keys: np.ndarray) -> np.ndarray:
    return history.decayed_count(keys)


def _class(history: AccessHistory, keys: np.ndarray) -> np.ndarray:
    return np.frexp(history.decayed_count(keys).astype(np.float64))[1].astype(np.int64)


POLICIES: dict[str, Value] = {
    "lfu": _count,
    "lru": _equal,
    "lfu-decay": _decayed,
    "class-lru": _class,
}


def read_policy(text: str) -> Policy:
    """Return the policy of a name, or of "static:FILE" with the experts that the file names.

    Raises
    ------
    ValueError
        If there is no such policy, or the file is no set of experts.
    FileNotFoundError
        If there is no such file.
    """
    if text in POLICIES:
        return Policy(text, POLICIES[text])
    if not text.startswith(STATIC):
        allowed = ", ".join((*POLICIES, f"{STATIC}FILE"))
        raise ValueError(f"expert_cache_policy is {shorten(text)}, allowed is {allowed}")
    path = Path(text.removeprefix(STATIC))
    try:
        layers = parse_json_object(path.read_bytes())["experts"]
        kept = {(int(layer), int(expert)) for layer, ids in layers.items() for expert in ids}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: no set of experts, as `mimo experts pin` writes it: {shorten(str(error))}"
        ) from error
    return static_policy(kept, text)


def static_policy(kept: Collection[tuple[int, int]], name: str = "static") -> Policy:
    """Return the policy that keeps a set of (layer, expert), and others by their last use."""
    return Policy(name, _equal, frozenset(kept))
