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

    from .request import Event, TokenLogprob
    from .sampling_params import SamplingParams
    from .stats import EngineStats

__all__ = ["GeneratedTokens", "generate", "stream_events"]


class GeneratedTokens(list[list[int]]):
    """The new tokens of each row of a batch, the end token included.

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
    logprobs: list[list[TokenLogprob]] = [[] for _ in prompts]
    options = {"prefix_cache": 0, "cache_dtype": cache_dtype, "suppress_tokens": suppress_tokens}
    with Engine(model, len(prompts), longest, **options) as engine:
        for row, prompt in enumerate(prompts):
            engine.submit(prompt, params, first_index=row)
        for event in stream_events(engine):
            logprobs[event.index] += event.logprobs or ()
            for token in event.tokens:
                rows[event.index].append(token)
                if on_token is not None:
                    on_token(event.index, token)
    return GeneratedTokens(rows, seed, engine.stats, logprobs)


def stream_events(engine: Engine) -> Iterator[Event]:
    """Yield the events of all steps; raise the error of an answer."""
    while engine.has_work:
        for event in engine.step():
            if event.error is not None:
                raise event.error
            yield event
