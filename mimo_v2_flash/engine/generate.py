"""Generation for a batch of prompts, which are submitted together and share their settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mimo_v2_flash.parallel import check_consistent

from .engine import Engine
from .seeds import resolve_seed

if TYPE_CHECKING:
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .outputs import Event, TokenLogprob
    from .sampling_params import SamplingParams
    from .stats import EngineStats

__all__ = ["GeneratedTokens", "generate", "take_events"]


class GeneratedTokens(list[list[int]]):
    """The new tokens of each row of a batch, the end token included.

    Parameters
    ----------
    rows
        New tokens of each row; other parameters are attributes.

    Attributes
    ----------
    seed
        The seed with which the same call generates them again.
    stats
        The engine's statistics of the call.
    logprobs
        A `TokenLogprob` of each token of each row, if the parameters ask for them.
    """

    def __init__(
        self,
        rows: Sequence[list[int]],
        seed: int,
        stats: EngineStats,
        logprobs: list[list[TokenLogprob]],
    ) -> None:
        super().__init__(rows)
        self.seed, self.stats, self.logprobs = seed, stats, logprobs


def generate(
    model: MiMoV2FlashModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    suppress_tokens: Sequence[int] = (),
    cache_dtype: Any = None,
    draft_tokens: int | str = 0,
    on_token: Callable[[int, int], None] | None = None,
) -> GeneratedTokens:
    """Return the new tokens of each prompt; `on_token(row, token)` is called for each.

    The answer of row r has the index r: rows of equal prompts have noise of their own. Requests
    have the resolved seed: their tokens are the same with drafts.

    Parameters
    ----------
    model : MiMoV2FlashModel
        The model.
    prompts : sequence of sequences of int
        Token ids of each prompt.
    params : SamplingParams
        How tokens are chosen, and when an answer ends.
    suppress_tokens : sequence of int
        Token ids that are never chosen.
    cache_dtype : dtype, optional
        Dtype of the KV cache; the model's if not given.
    draft_tokens : int or "auto"
        Tokens that MTP heads draft for each step.
    on_token : callable, optional
        Called with the row and the id of each new token.

    Raises
    ------
    ValueError
        If a row gets NaN or infinity, there are fewer MTP heads than `draft_tokens`, or ranks call
        it with other arguments.
    """
    check_consistent(
        model.group,
        prompts=prompts,
        suppress_tokens=suppress_tokens,
        cache_dtype=cache_dtype,
        draft_tokens=draft_tokens,
        **asdict(params),
    )
    seed = resolve_seed(params.seed, model.group)
    params = replace(params, seed=seed)
    longest = max(map(len, prompts)) + max((params.max_tokens or 0) - 1, 0)
    rows: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[TokenLogprob]] = [[] for _ in prompts]

    def take(event: Event) -> None:
        logprobs[event.index] += event.logprobs or ()
        for token in event.tokens:
            rows[event.index].append(token)
            if on_token is not None:
                on_token(event.index, token)

    options = {"prefix_cache": 0, "cache_dtype": cache_dtype, "suppress_tokens": suppress_tokens}
    options |= {"draft_tokens": draft_tokens, "share_events": True}
    with Engine(model, len(prompts), longest, **options) as engine:
        if not model.group.rank:
            for row, prompt in enumerate(prompts):
                engine.submit(prompt, params, first_index=row)
        take_events(engine, model.group.rank, take)
    return GeneratedTokens(rows, seed, engine.stats, logprobs)


def take_events(engine: Engine, rank: int, take: Callable[[Event], None]) -> None:
    """Run what rank 0 has submitted; `take` gets the events on every rank, if they are shared.

    The error of an answer is raised.

    Parameters
    ----------
    engine : Engine
        The engine.
    rank : int
        This rank.
    take : callable
        Called with each event.
    """

    def take_all(events: Sequence[Event]) -> None:
        for event in events:
            if event.error is not None:
                raise event.error
            take(event)

    if rank:
        engine.follow(take_all)
    while not rank and engine.has_work:
        take_all(engine.step())
