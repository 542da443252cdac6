"""Statistics of an engine: queue, rates, latencies and batch sizes, since its start."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.expert_store import StoreStats
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS

from .memory_budget import MemoryUsage
from .outputs import Event
from .request import Request
from .scheduler import ScheduledTokens

__all__ = ["EngineStats", "Percentiles", "StatsRecorder"]

KEPT = 4096  # of the latest latencies and steps, for percentiles


class Percentiles(NamedTuple):
    """Percentiles of the latest durations, in seconds; NaN if there are none."""

    p50: float
    p90: float
    p99: float


class EngineStats(NamedTuple):
    """A snapshot of an engine's statistics.

    Attributes
    ----------
    running, waiting, finished
        Sequences that have a row of the KV cache, requests that wait, and answers that ended.
    prefill_tokens, decode_tokens
        Tokens computed since the start: of prompts, and of answers without refused drafts.
    reused_tokens
        Tokens of prompts that were not computed, since the prefix store had them.
    prefill_tokens_per_second, decode_tokens_per_second
        The same per second of the steps that had such tokens.
    tokens_per_step
        New tokens per sequence and decode step: 1.0 without drafts, NaN before the first.
    first_token_seconds, token_seconds
        Time from `submit` to a request's first token, and between tokens of a sequence.
    drafted, accepted
        Drafts since the start that a step verified, and those that became tokens: of each MTP head.
    draft_seconds
        Time in which MTP heads drafted.
    batch_size
        Mean number of sequences in a step.
    cache_bytes
        Bytes of the KV cache, allocated.
    row_bytes, prefix_bytes, memory_bytes, peak_memory_bytes, max_memory_bytes
        Bytes of memory in use, as in `MemoryUsage`.
    expert_cache
        The statistics of this rank's expert store; None if there is none.
    """

    running: int
    waiting: int
    finished: int
    prefill_tokens: int
    decode_tokens: int
    reused_tokens: int
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    tokens_per_step: float
    first_token_seconds: Percentiles
    token_seconds: Percentiles
    drafted: tuple[int, ...]
    accepted: tuple[int, ...]
    draft_seconds: float
    batch_size: float
    cache_bytes: int
    row_bytes: int
    prefix_bytes: int
    memory_bytes: int
    peak_memory_bytes: int
    max_memory_bytes: int | None
    expert_cache: StoreStats | None = None


class StatsRecorder:
    """What an engine counts as it runs."""

    def __init__(self) -> None:
        self._finished = self._steps = self._sequences = 0
        self._new_tokens = self._reused_tokens = self._decoded = 0
        self._drafted, self._accepted = [0] * MAX_DRAFT_TOKENS, [0] * MAX_DRAFT_TOKENS
        self._tokens = {True: 0, False: 0}  # by whether they are a prompt's
        self._step = Counter[bool]()  # those of the step that runs
        self._seconds = {True: 0.0, False: 0.0}
        self._first_token: deque[float] = deque(maxlen=KEPT)
        self._between_tokens: deque[float] = deque(maxlen=KEPT)
        self._start = 0.0

    def begin(self, scheduled: list[ScheduledTokens], now: float) -> None:
        """Count the tokens of a step that begins."""
        self._start, self._steps = now, self._steps + bool(scheduled)
        self._sequences += len(scheduled)
        for part in scheduled:
            sequence = part.sequence
            self._step[sequence.is_prefill] += len(part.tokens)
            self._decoded += not sequence.is_prefill
            for head in range(len(part.drafts)):
                self._drafted[head] += 1
            if sequence.computed == sequence.reused:  # it begins to run
                self._reused_tokens += sequence.reused
                sequence.queue_seconds = now - sequence.request.arrival

    def finish(self, events: list[Event], requests: Mapping[int, Request], now: float) -> None:
        """Count what a step added to the answers of `requests`.

        Parameters
        ----------
        events : list of Event
            Events of the step.
        requests : mapping of int to Request
            Requests by their ids.
        now : float
            The time in seconds.
        """
        for is_prefill, tokens in self._step.items():
            self._tokens[is_prefill] += tokens
            self._seconds[is_prefill] += now - self._start
        self._step.clear()
        for event in events:
            self._finished += event.finish_reason is not None
            request = requests.get(event.id)
            if request is None or not event.tokens:  # None if another thread closed the engine
                continue
            sequence = request.sequences[event.index - request.sequences[0].index]
            if sequence.last_time is None:
                self._first_token.append(now - request.arrival)
            else:
                self._count_drafts(len(event.tokens) - 1, sequence.accepted)
                self._between_tokens.append((now - sequence.last_time) / len(event.tokens))
                self._new_tokens += len(event.tokens)
            sequence.last_time = now

    def _count_drafts(self, more: int, accepted: int) -> None:
        """Count a decode step's tokens beyond one, and its drafts that became tokens."""
        self._tokens[False] += more
        for head in range(accepted):
            self._accepted[head] += 1

    def snapshot(
        self,
        running: int,
        waiting: int,
        cache_bytes: int,
        usage: MemoryUsage,
        draft_seconds: float = 0.0,
    ) -> EngineStats:
        """Return the statistics so far.

        Parameters
        ----------
        running, waiting : int
            Answers that are generated, and that wait.
        cache_bytes : int
            Bytes of the KV cache's arrays.
        usage : MemoryUsage
            What the memory budget holds.
        draft_seconds : float
            Time in drafting.
        """
        return EngineStats(
            running,
            waiting,
            self._finished,
            self._tokens[True],
            self._tokens[False],
            self._reused_tokens,
            _ratio(self._tokens[True], self._seconds[True]),
            _ratio(self._tokens[False], self._seconds[False]),
            _ratio(self._new_tokens, self._decoded),
            _percentiles(self._first_token),
            _percentiles(self._between_tokens),
            tuple(self._drafted),
            tuple(self._accepted),
            draft_seconds,
            _ratio(self._sequences, self._steps),
            cache_bytes,
            *usage,
        )


def _ratio(amount: float, of: float) -> float:
    return amount / of if of else float("nan")


def _percentiles(durations: deque[float]) -> Percentiles:
    if not durations:
        return Percentiles(*[float("nan")] * 3)
    return Percentiles(*map(float, np.percentile(list(durations), [50, 90, 99])))
