"""Conversations as tokens, written by the checkpoint's chat template, and which tokens are learned.

The loss counts the answers alone: what users write is drawn at random and teaches nothing. The
closing `</think>` of an answer without thinking stands in the prompt, and is not learned either.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.text.chat_template import chat_prompt

__all__ = ["learned", "render", "write"]


def write(chats: Path, tokenizer: Any, longest: int, output: Path) -> dict[str, int]:
    """Write the conversations of a JSONL file as arrays `token`, `counts` and `start`.

    Those of more than `longest` tokens are left out. Returns the counts.
    """
    with chats.open(encoding="utf-8") as lines:
        rendered = [render(tokenizer, json.loads(line)) for line in lines]
    kept = [each for each in rendered if len(each) <= longest]
    masks = [learned(tokenizer, each) for each in kept]
    lengths = np.array([len(each) for each in kept])
    arrays = {
        "token": np.concatenate(kept).astype(np.uint16),
        "counts": np.concatenate(masks),
        "start": lengths.cumsum() - lengths,
    }
    with atomic_write(output) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
    return {
        "conversations": len(kept),
        "too_long": len(rendered) - len(kept),
        "tokens": int(lengths.sum()),
        "learned": int(arrays["counts"].sum()),
    }


def render(tokenizer: Any, chat: dict[str, Any]) -> list[int]:
    """Return the tokens of a whole conversation."""
    return chat_prompt(
        tokenizer, chat["messages"], tools=chat["tools"] or None, add_generation_prompt=False
    ).tokens


def learned(tokenizer: Any, token_T: Sequence[int]) -> np.ndarray:
    """Return which tokens are of answers: from the first one that the model writes to the end."""
    ids = tokenizer.added_tokens_encoder
    end, closed = ids["<|im_end|>"], [ids["<think>"], ids["</think>"]]
    opening = [ids["<|im_start|>"], *_plain(tokenizer, "assistant\n")]
    mask, tokens = np.zeros(len(token_T), bool), list(token_T)
    for start in _occurrences(tokens, opening):
        begin = start + len(opening)
        begin += 2 if tokens[begin : begin + 2] == closed else 0
        mask[begin : tokens.index(end, begin) + 1] = True
    return mask


def _plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _occurrences(tokens: list[int], part: list[int]) -> Iterable[int]:
    starts = range(len(tokens) - len(part) + 1)
    return [each for each in starts if tokens[each : each + len(part)] == part]
