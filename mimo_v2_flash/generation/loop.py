"""The loop: show the model what it has not seen yet, draw a token per row, until rows end."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from .sampling import Sampler

__all__ = ["generate", "padded"]

Step = Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
"""From token_BT, position_BT and, per row, the index of the token whose logits are wanted, to
logits_BV."""


def generate(
    step: Step,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
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
        token_BT, position_BT = padded(unseen, starts)
        last_B = np.array([max(len(new) - 1, 0) for new in unseen])
        logits_BV = step(token_BT, position_BT, last_B)
        drawn = sampler.draw(logits_BV[alive], alive, [histories[row] for row in alive])
        unseen = [[] for _ in prompts]
        for row, token in zip(alive, map(int, drawn), strict=True):
            histories[row].append(token)
            unseen[row] = [token]
            yield row, token
        ended = [row for row in alive if histories[row][-1] in end_tokens]
        for row in ended:
            unseen[row] = []
        alive = [row for row in alive if row not in ended]


def padded(rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
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
