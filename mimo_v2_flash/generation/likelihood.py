"""Negative log-likelihood of a text under a model, in bits.

The text is split into consecutive windows. The model sees each window by itself, after the
end-of-text token, and predicts every token of the text once. Windows are requests to the engine,
which computes short ones together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.generate import take_events
from mimo_v2_flash.inputs import as_tokens

if TYPE_CHECKING:
    from mimo_v2_flash.engine.outputs import Event
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["check_window", "total_bits"]

CHUNK = 256  # tokens of windows in a step


def check_window(length: int, model: MiMoV2FlashModel) -> None:
    """Raise ValueError unless `length` is a window that the model can read."""
    if not 1 <= length <= model.max_length:
        raise ValueError(f"length is {length}, allowed is 1..{model.max_length}")


def total_bits(
    model: MiMoV2FlashModel,
    token_T: Sequence[int],
    *,
    length: int,
    begin: int,
    advance: Callable[[int], object] = int,
) -> float:
    """Return the bits of a text's tokens under `model`: the sum of -log2 of their probabilities.

    Parameters
    ----------
    model
        The model that predicts the text.
    token_T
        Token ids of the text.
    length
        Length of a window, in tokens.
    begin
        Id of the token that precedes each window.
    advance
        Progress callback, called after each part of a window with its number of tokens.

    Raises
    ------
    ValueError
        If there are no tokens, `length` is not in 1..max_length, or an id is outside
        the vocabulary.
    """
    check_window(length, model)
    text_T = as_tokens([token_T], model.config.vocab_size)[0].tolist()
    longest, starts = min(length, len(text_T)), range(0, len(text_T), length)
    rows = 1 if model.pads_steps else max(1, CHUNK // longest)
    params, nats = SamplingParams(max_tokens=0, prompt_logprobs=0), 0.0

    def take(event: Event) -> None:
        nonlocal nats
        nats -= sum(token.logprob for token in event.prompt_logprobs)
        advance(len(event.prompt_logprobs))

    options: dict[str, Any] = {"prefill_chunk": CHUNK, "prefix_cache": 0, "share_events": True}
    with Engine(model, rows, longest, **options) as engine:
        for start in () if model.group.rank else starts:
            engine.submit([begin, *text_T[start : start + length]], params)
        take_events(engine, model.group.rank, take)
    return nats / math.log(2)
