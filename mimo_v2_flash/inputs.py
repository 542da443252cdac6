"""Validation of arguments of the model: token ids, positions, indices, prompts, sizes, dtypes."""

from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

import ml_dtypes
import numpy as np

from .cpu.kv_codes import CODES
from .json_object import shorten
from .quantization.compute import COMPUTE_TYPES

__all__ = [
    "CACHE_DTYPES",
    "FLOATS",
    "MAX_STEP",
    "as_cache_dtype",
    "as_compute",
    "as_count",
    "as_draft_tokens",
    "as_float",
    "as_indices",
    "as_integer",
    "as_layers_per_program",
    "as_new_tokens",
    "as_positions",
    "as_prompts",
    "as_token_ids",
    "as_tokens",
    "cache_dtype_name",
]

FLOATS = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""The dtypes of hidden states and of compiled programs' KV caches, by name."""

CACHE_DTYPES = FLOATS | CODES
"""The dtypes of KV caches, by name."""
MAX_STEP = 512
"""Tokens of a pass on a host, if its caller does not say."""


def as_integer(name: str, value: Any) -> int:
    """Return `value`, an integer of Python or NumPy; ValueError if it is a float or a bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be an integer, got {shorten(value)}")
    return int(value)


def as_count(name: str, count: int, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Return `count`; ValueError if it is no integer, below `minimum`, or above `maximum`.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    count : int
        The number.
    minimum, maximum : int
        What is allowed; no maximum if it is None.
    """
    count = as_integer(name, count)
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {count}")
    if maximum is not None and count > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {count}")
    return count


def as_new_tokens(
    max_new_tokens: int, prompts: Collection[Collection[int]], max_length: int
) -> int:
    """Return `max_new_tokens`; ValueError if prompts and their answers exceed `max_length`.

    Parameters
    ----------
    max_new_tokens : int
        Tokens to generate for each prompt.
    prompts : collection of sequences of int
        Token ids of the prompts.
    max_length : int
        The most tokens that a model reads of one sequence.
    """
    longest = max(map(len, prompts))
    as_count("tokens of a prompt", longest, maximum=max_length)
    limit = as_count("max_new_tokens", max_new_tokens, minimum=0)
    name = f"max_new_tokens after a prompt of {longest} tokens"
    return as_count(name, limit, maximum=max_length - longest + 1, minimum=0)  # the last: not read


def as_draft_tokens(draft_tokens: Any, heads: int) -> Any:
    """Return "auto" or a number of drafts; ValueError if it is above the number of MTP heads."""
    if isinstance(draft_tokens, str):
        if draft_tokens != "auto":
            raise ValueError(
                f'draft_tokens is {shorten(draft_tokens)}, allowed is "auto" or 0..{heads}'
            )
        return draft_tokens
    count = as_count("draft_tokens", draft_tokens, minimum=0)
    if count > heads:
        raise ValueError(f"draft_tokens is {count}, but the model has {heads} MTP heads")
    return count


def as_compute(compute: Any, *, compiles: bool) -> str:
    """Return a compute type; ValueError unless a backend has it that compiles programs, or not."""
    allowed = ("float32",) if compiles else tuple(COMPUTE_TYPES)
    if not isinstance(compute, str) or compute not in allowed:
        where = " with a backend that compiles" if compiles else ""
        raise ValueError(f"compute is {shorten(compute)}, allowed{where} is {' or '.join(allowed)}")
    return compute


def as_layers_per_program(count: Any, *, compiles: bool) -> int | None:
    """Return the most layers of a program, or None; ValueError unless a backend has programs."""
    if count is not None and not compiles:
        raise ValueError("layers_per_program is for a backend that compiles: numpy has no programs")
    return None if count is None else as_count("layers_per_program", count)


def as_float(name: str, dtype: Any) -> np.dtype:
    """Return `dtype`, a dtype or its name; ValueError if it is neither float32 nor bfloat16."""
    return _as_dtype(name, dtype, FLOATS, "")


def as_cache_dtype(name: str, dtype: Any, *, compiles: bool = False) -> np.dtype:
    """Return the dtype of a KV cache; ValueError unless a backend has it: see `as_compute`.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    dtype : dtype or str
        The dtype.
    compiles : bool
        Whether a compiled backend has the cache: it knows no 8 bits.
    """
    where = " with a backend that compiles" if compiles else ""
    return _as_dtype(name, dtype, FLOATS if compiles else CACHE_DTYPES, where)


def cache_dtype_name(dtype: Any) -> str:
    """Return the name of a KV cache's dtype, as options have it."""
    return next(name for name, known in CACHE_DTYPES.items() if known == dtype)


def _as_dtype(name: str, dtype: Any, allowed: Mapping[str, np.dtype], where: str) -> np.dtype:
    """Return `dtype`, a dtype or its name, which is to be one of `allowed`."""
    known = CACHE_DTYPES.get(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    if known is None or known not in allowed.values():
        *others, last = allowed
        shown = dtype if isinstance(dtype, str) else known
        names = f"{', '.join(others)} or {last}"
        raise ValueError(f"{name} must be {names}{where}, got {shown}")
    return known


def as_tokens(token_BT: Any, vocab_size: int) -> np.ndarray:
    """Return `token_BT` as int32 [B, T].

    Raises
    ------
    ValueError
        If it is no array of integers with two axes, is empty, or an id is outside the vocabulary.
    """
    token_BT = _integers("token ids", token_BT)
    if token_BT.ndim != 2 or not token_BT.size:
        raise ValueError(f"token ids must be [B, T] and not empty, got shape {token_BT.shape}")
    return _in_vocabulary(token_BT, vocab_size)


def as_positions(position_BT: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `position_BT` as int32, or raise ValueError if it is not such an array of `shape`."""
    position_BT = _integers("positions", position_BT)
    if position_BT.shape != shape:
        raise ValueError(f"positions are {position_BT.shape}, the tokens are {shape}")
    wrapped_BT = position_BT.astype(np.int32)
    if np.any(outside := wrapped_BT != position_BT):
        raise ValueError(f"positions must be int32, got {position_BT[outside][0]}")
    return wrapped_BT


def as_indices(name: str, index_Bn: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return `index_Bn` as indices into the tokens of each row, -1 for none; all if it is None.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    index_Bn : array of int, or None
        Indices, -1 for none.
    shape : tuple of int
        Shape of the tokens, (B, T).

    Raises
    ------
    ValueError
        If it is not [B, n], or an index is not in -1..T-1.
    """
    B, T = shape
    if index_Bn is None:
        return np.broadcast_to(np.arange(T), (B, T))
    index_Bn = _integers(name, index_Bn)
    if index_Bn.ndim != 2 or len(index_Bn) != B or not index_Bn.size:
        raise ValueError(f"{name} must be [{B}, n], got shape {index_Bn.shape}")
    if (outside_Bn := (index_Bn < -1) | (index_Bn >= T)).any():
        raise ValueError(f"{name} must be in -1..{T - 1}, got {index_Bn[outside_Bn][0]}")
    return index_Bn


def as_prompts(input_ids: Any, vocab_size: int) -> list[list[int]]:
    """Return prompts as lists of token ids.

    Raises
    ------
    ValueError
        If there is no prompt, one is empty, or an id is outside the vocabulary.
    """
    prompts = list(input_ids)
    if not prompts:
        raise ValueError("there is no prompt")
    for row, prompt in enumerate(prompts):
        if np.ndim(prompt) != 1 or not len(prompt):
            raise ValueError(f"prompt {row} must be a sequence of token ids, and not empty")
        token_1T = _integers(f"token ids of prompt {row}", [prompt])
        prompts[row] = _in_vocabulary(token_1T, vocab_size, first_row=row)[0].tolist()
    return prompts


def as_token_ids(name: str, tokens: Any, vocab_size: int) -> set[int]:
    """Return one token id, several or None as a set; ValueError if one is not in the vocabulary.

    Parameters
    ----------
    name : str
        Name of the parameter, for the message.
    tokens : int, sequence of int, or None
        The ids.
    vocab_size : int
        Number of ids that there are.
    """
    one = tokens is None or isinstance(tokens, str) or not isinstance(tokens, Collection)
    several = [] if tokens is None else [tokens] if one else list(tokens)
    for token in several:
        whole = isinstance(token, Integral) and not isinstance(token, bool)
        if not whole or not 0 <= token < vocab_size:
            allowed = f"token ids of 0 to {vocab_size - 1}"
            raise ValueError(f"{name} is {shorten(tokens)}, allowed is {allowed}")
    return set(map(int, several))


def _in_vocabulary(token_BT: np.ndarray, vocab_size: int, *, first_row: int = 0) -> np.ndarray:
    outside = (token_BT < 0) | (token_BT >= vocab_size)
    if np.any(outside):
        row, column = map(int, np.argwhere(outside)[0])
        raise ValueError(
            f"token id {token_BT[row, column]} in row {first_row + row}, column {column} is "
            f"outside of the vocabulary 0..{vocab_size - 1}"
        )
    return token_BT.astype(np.int32)


def _integers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (OverflowError, ValueError):
        raise ValueError(f"{name} must be integers in rows of one length") from None
    if array.dtype.kind not in "iu":
        if not array.size:  # which NumPy takes for floats
            raise ValueError(f"{name} must not be empty, got shape {array.shape}")
        raise ValueError(f"{name} must be integers, got {array.dtype} of shape {array.shape}")
    return array
