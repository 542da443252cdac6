"""The generation loop: prefill and decode steps, one token per row, until every row has ended."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["GeneratedTokens", "TokenSelector", "collect_tokens", "generate", "pad_rows"]

TokenSelector = Callable[
    [np.ndarray, np.ndarray, np.ndarray, Sequence[int], Sequence[Sequence[int]]], Any
]
"""A function that selects the next token of each active row.

Its arguments are token_BT, position_BT, the index of each row's last token, the active rows, and
the tokens of each active row so far.
"""


class GeneratedTokens(list[list[int]]):
    """The new tokens of each row of a batch, the end token included.

    Attributes
    ----------
    seed
        The seed with which the same call generates them again.
    """

    def __init__(self, rows: Iterable[list[int]], seed: int) -> None:
        super().__init__(rows)
        self.seed = seed


def generate(
    select: TokenSelector,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    eos_token_ids: Collection[int],
) -> Iterator[tuple[int, int]]:
    """Yield (row, token) as tokens are selected, each row up to an end token or `max_new_tokens`.

    Prefill and decoding are one loop: a step holds the tokens of a row that the model has not seen.
    A row that has ended is padding in later steps.
    """
    histories = [list(prompt) for prompt in prompts]
    unseen = [list(prompt) for prompt in prompts]
    active = list(range(len(prompts))) if max_new_tokens > 0 else []
    for _ in range(max_new_tokens):
        if not active:
            return
        starts = [len(history) - len(new) for history, new in zip(histories, unseen, strict=True)]
        token_BT, position_BT = pad_rows(unseen, starts)
        last_B = np.array([max(len(new) - 1, 0) for new in unseen])
        selected = select(token_BT, position_BT, last_B, active, [histories[row] for row in active])
        for row, token in zip(active, map(int, selected), strict=True):
            histories[row].append(token)
            yield row, token
        active = [row for row in active if histories[row][-1] not in eos_token_ids]
        unseen = [history[-1:] if row in active else [] for row, history in enumerate(histories)]


def collect_tokens(
    drawn: Iterator[tuple[int, int]], rows: int, on_token: Callable[[int, int], None] | None
) -> list[list[int]]:
    """Return the new tokens of each row; call `on_token(row, token)` as each is drawn."""
    new_tokens: list[list[int]] = [[] for _ in range(rows)]
    for row, token in drawn:
        new_tokens[row].append(token)
        if on_token is not None:
            on_token(row, token)
    return new_tokens


def pad_rows(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (token_BT, position_BT), int32: row b begins at position starts[b].

    Shorter rows end with padding: token 0 at position -1.
    """
    length = max(map(len, rows))
    token_BT = np.zeros((len(rows), length), np.int32)
    position_BT = np.full((len(rows), length), -1, np.int32)
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        token_BT[index, : len(row)] = row
        position_BT[index, : len(row)] = np.arange(start, start + len(row))
    return token_BT, position_BT
