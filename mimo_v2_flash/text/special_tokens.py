"""The special tokens of a rendered chat: those that the template wrote, never those of a message.

A chat template joins its markers and the texts of messages to one string. Before that, a border
character is put into a text where a special token would be read in it, or across one of its ends.
After that, tokens without a border inside are special, and the borders are taken out.
"""

import json
import re
import string
from collections.abc import Mapping
from typing import Any

from .tokenizer import plain_tokens, tokens

__all__ = ["SpecialTokenGuard"]

PUNCTUATION = string.punctuation.replace("_", "")
BORDERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters: in no text


class SpecialTokenGuard:
    """The special and other added tokens of a tokenizer, which texts cannot forge.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    inputs
        All that the template is rendered with, made of dictionaries, lists and texts; the border is
        a character that is not in it.

    Raises
    ------
    ValueError
        If `inputs` holds each of the 32 borders, or is not made of JSON's types.

    Notes
    -----
    A text is cut where a token begins in it, and at an end where it would complete what is before
    it or begin what is behind. So three texts side by side are the first that could make a token.
    """

    def __init__(self, tokenizer: Any, inputs: Any) -> None:
        content = _as_json(inputs)
        self._border = next((char for char in BORDERS if char not in content), "")
        if not self._border:
            raise ValueError("the messages hold each of the noncharacters U+FDD0 to U+FDEF")
        self._tokenizer, self._ids = tokenizer, tokenizer.added_tokens_encoder
        names = sorted((name for name in self._ids if len(name) > 1), key=len, reverse=True)
        either = "|".join(map(re.escape, names)) or "(?!)"
        self._token, self._begin = re.compile(f"({either})"), re.compile(f"(?s)(?=(?:{either}))(.)")
        self._prefixes = tuple({name[:end] for name in names for end in range(1, len(name))})
        self._suffixes = tuple({name[start:] for name in names for start in range(1, len(name))})
        self._cores = {name.strip(PUNCTUATION) for name in names}

    def protect(self, value: Any) -> Any:
        """Return a copy of `value` with borders in its texts, those of its keys too."""
        if isinstance(value, str):
            return self._protect_text(value)
        if isinstance(value, Mapping):
            return {self.protect(key): self.protect(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(each) for each in value]
        return value

    def _protect_text(self, text: str) -> str:
        if self._token.search(text):
            text = self._begin.sub(rf"\1{self._border}", text)
        is_core = text.strip(PUNCTUATION) in self._cores
        if is_core or text.startswith(self._suffixes):
            text = self._border + text
        return text + self._border if is_core or text.endswith(self._prefixes) else text

    def encode(self, rendered: str) -> list[int]:
        """Return the token ids of what a template made of protected values."""
        ids: list[int] = []
        for index, part in enumerate(self._token.split(rendered)):
            if index % 2:
                ids.append(self._ids[part])
            elif text := part.replace(self._border, ""):
                read = plain_tokens if self._token.search(text) else tokens
                ids += read(self._tokenizer, text)
        return ids


def _as_json(inputs: Any) -> str:
    try:
        return json.dumps(inputs, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"messages and tools are not JSON: {error}") from error
