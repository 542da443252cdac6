"""Generation for a batch of prompts, which are submitted together and share their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mimo_v2_flash.parallel import check_consistent

from .engine import Engine
from .seeds import resolve_seed

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .request import Event
    from .sampling_params import SamplingParams

__all__ = ["GeneratedTokens", "generate"]


class GeneratedTokens(list[list[int]]):
    """The new tokens of each row of a batch, the end token included.

    Attributes
    ----------
    seed
        The seed with which the same call generates them again.
    """

    def __init__(self, rows: Sequence[list[int]], seed: int) -> None:
        super().__init__(rows)
        self.seed = seed


def generate(
    model: MiMoV2FlashModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    suppress_tokens: Sequence[int] = (),
    cache_dtype: Any = None,
    on_token: Callable[[int, int], None] | None = None,
) -> GeneratedTokens:
    """Return the new tokens of each prompt; `on_token(row, token)` is called for each.

    The answer of row r has the index r: rows of equal prompts have noise of their own.

    Raises
    ------
    ValueError
        If a row gets NaN or infinity, or ranks call it with other arguments.
    """
    check_consistent(
        model.group,
        prompts=prompts,
        suppress_tokens=suppress_tokens,
        cache_dtype=cache_dtype,
        **asdict(params),
    )
    seed = resolve_seed(params.seed, model.group)
    params = replace(params, seed=seed)
    longest = max(map(len, prompts)) + max((params.max_tokens or 0) - 1, 0)
    rows: list[list[int]] = [[] for _ in prompts]

    def take(events: Sequence[Event]) -> None:
        for row, token in _tokens(events):
            rows[row].append(token)
            if on_token is not None:
                on_token(row, token)

    options: dict[str, Any] = {"prefix_cache": 0, "cache_dtype": cache_dtype}
    options |= {"suppress_tokens": suppress_tokens, "share_events": True}
    with Engine(model, len(prompts), longest, **options) as engine:
        if model.group.rank:
            engine.follow(take)
        else:
            _run(engine, prompts, params, take)
    return GeneratedTokens(rows, seed)


def _run(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    take: Callable[[Sequence[Event]], None],
) -> None:
    """Answer all prompts, the one of row r with index r; `take` gets the events of each step."""
    for row, prompt in enumerate(prompts):
        engine.submit(prompt, params, first_index=row)
    while engine.has_work:
        take(engine.step())


def _tokens(events: Sequence[Event]) -> Iterator[tuple[int, int]]:
    """Yield the index of an answer and its next token, as they were chosen; raise its error."""
    for event in events:
        if event.error is not None:
            raise event.error
        yield from ((event.index, token) for token in event.tokens)
