"""The bytes of single tokens: a token of byte-level BPE may begin or end within a character."""

from functools import lru_cache
from importlib import import_module
from typing import Any

__all__ = ["token_bytes"]


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """Return the bytes of a token; those of its name for a special token, none for an unknown id.

    Examples
    --------
    >>> from mimo_v2_flash.text.tokenizer import load_tokenizer
    >>> token_bytes(load_tokenizer("examples/mimo-tiny"), 8)
    b'</think>'
    """
    added = tokenizer.added_tokens_decoder.get(token)
    if added is not None:
        return str(added.content).encode()
    name = tokenizer.convert_ids_to_tokens(token) or ""
    byte_of_character = _byte_of_character()
    return bytes(byte_of_character[character] for character in name)


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a token's name in the vocabulary stands for."""
    characters = import_module("transformers.convert_slow_tokenizer").bytes_to_unicode()
    return {character: byte for byte, character in characters.items()}
