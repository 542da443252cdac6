"""The loop: show the model what it has not seen yet, draw a token per row, until rows end."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["TokenSelector", "collect_tokens", "generate", "pad_rows"]

TokenSelector = Callable[
    [np.ndarray, np.ndarray, np.ndarray, Sequence[int], Sequence[Sequence[int]]], Any
]
"""From token_BT, position_BT, per row the index of its last token, the rows that go on, and the
tokens of these so far, to the next token of each of these."""


def generate(
    select: TokenSelector,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_tokens: Collection[int],
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) as tokens are drawn, each row up to an end token or `max_new_tokens`.

    Prefill and decoding are one loop: a step holds what a row has not shown yet. A row that ended
    is padding from then on.
    """
    histories = [list(prompt) for prompt in prompts]
    unseen = [list(prompt) for prompt in prompts]
    alive = list(range(len(prompts))) if max_new_tokens > 0 else []
    for _ in range(max_new_tokens):
        if not alive:
            return
        starts = [len(history) - len(new) for history, new in zip(histories, unseen, strict=True)]
        token_BT, position_BT = pad_rows(unseen, starts)
        last_B = np.array([max(len(new) - 1, 0) for new in unseen])
        histories_of_alive = [histories[row] for row in alive]
        drawn = select(token_BT, position_BT, last_B, alive, histories_of_alive)
        unseen = [[] for _ in prompts]
        for row, token in zip(alive, map(int, drawn), strict=True):
            histories[row].append(token)
            unseen[row] = [token]
            yield row, token
        ended = [row for row in alive if histories[row][-1] in end_tokens]
        for row in ended:
            unseen[row] = []
        alive = [row for row in alive if row not in ended]


def collect_tokens(
    drawn: Iterator[tuple[int, int]], rows: int, on_token: Callable[[int, int], None] | None
) -> list[list[int]]:
    """Return the tokens of each row, after telling `on_token` of each as it is drawn."""
    answers: list[list[int]] = [[] for _ in range(rows)]
    for row, token in drawn:
        answers[row].append(token)
        if on_token is not None:
            on_token(row, token)
    return answers


def pad_rows(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_BT, position_BT), int32: `rows` from position `starts` on, then padding.

    Padding is token 0 at position -1.
    """
    length = max(map(len, rows))
    token_BT = np.zeros((len(rows), length), np.int32)
    position_BT = np.full((len(rows), length), -1, np.int32)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        token_BT[index, : len(row)] = row
        position_BT[index, : len(row)] = np.arange(start, start + len(row))
    return token_BT, position_BT
