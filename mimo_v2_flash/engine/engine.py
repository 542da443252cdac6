"""The engine: one loop that answers many requests at once, each as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

from mimo_v2_flash import inputs
from mimo_v2_flash.expert_store import ExpertReadError, store_stats
from mimo_v2_flash.parallel import ALONE

from .drafter import Drafter
from .executor import Executor
from .memory_budget import new_memory_budget
from .output_processor import OutputProcessor, suppressed_tokens
from .request import Constraint, QueueFullError, Request
from .sampling_params import SamplingParams
from .scheduler import Scheduler
from .seeds import resolve_seed
from .stats import EngineStats, StatsRecorder
from .step_runner import StepRunner
from .worker import new_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mimo_v2_flash.model import MiMoV2FlashModel

    from .outputs import Event, RequestOutput
    from .scheduler import ScheduledTokens

__all__ = ["Engine"]

MOST = 2**53  # of priorities and indices: as exact in floating point


class Engine:
    """An engine that answers requests on one model, many at a time.

    `submit`, `cancel`, `stats` and `close` may be called from any thread, `step` from one at a
    time. A request's tokens are those that it has alone, whatever its neighbours: logits agree
    within 1e-5 of their range, and the noise of sampling belongs to the request.

    All ranks of a model construct it alike. Rank 0 answers requests; the others `follow`.

    Parameters
    ----------
    model : MiMoV2FlashModel
        The model.
    max_sequences : int
        Rows of the KV cache: the most answers that are generated at a time.
    max_length : int, optional
        The most tokens of a sequence, prompt and answer; the model's if not given.
    prefill_chunk : int
        The most tokens of prompts in a step.
    max_waiting : int, optional
        The most requests that wait; any number if not given.
    memory : int or str, optional
        The most memory of each rank for the rows of the KV cache and known prefixes together:
        bytes, a size ("8GiB") or a part of the free memory ("50%"). A request whose prompt and
        `max_tokens` do not fit waits, or is refused if they never can. By default it is 90% of the
        free memory, so that no request ends the process; no limit where the model pads its steps,
        whose cache is allocated as a whole.
    prefix_cache : int or str
        The part of it for keys and values of known prefixes, as for `memory`; 0 keeps none.
        Prefixes are dropped before a request waits.
    draft_tokens : int or "auto"
        How many tokens MTP heads draft for each step of a sequence, 0 to the number of heads that
        the checkpoint has. Greedy requests and those with a seed get the tokens that they get
        without, others a sample of the same distribution. "auto" drafts as many as bring most
        tokens per second: none without heads, in programs, or where an expert store reads experts.
    cache_dtype : dtype, optional
        Dtype of the KV cache, as for the model; the model's if not given.
    suppress_tokens : sequence of int, optional
        Token ids that are never chosen; those of the model's `generation_config` if not given.
    clock : callable
        The time in seconds, of which only differences count.
    share_events : bool
        Whether `follow` on other ranks gets the events of each step.

    Raises
    ------
    ValueError
        If a size or dtype is not allowed, `memory` holds not even an empty cache, or ranks differ.
    MemoryError
        If the system refuses the cache's arrays.

    Examples
    --------
    >>> from mimo_v2_flash import load_model
    >>> model = load_model("examples/mimo-tiny")
    >>> with Engine(model, max_length=64) as engine:
    ...     first = engine.submit([1, 45, 300], SamplingParams(max_tokens=4))
    ...     second = engine.submit([1, 46], SamplingParams(max_tokens=2, temperature=1.0, seed=7))
    ...     results = engine.run()
    >>> len(results[first].tokens), results[second].finish_reason
    (4, 'length')
    """

    def __init__(
        self,
        model: MiMoV2FlashModel,
        max_sequences: int = 32,
        max_length: int | None = None,
        *,
        prefill_chunk: int = 512,
        max_waiting: int | None = None,
        memory: int | str | None = None,
        prefix_cache: int | str = "10%",
        draft_tokens: int | str = 0,
        cache_dtype: Any = None,
        suppress_tokens: SequenceOf[int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        share_events: bool = False,
    ) -> None:
        inputs.as_count("max_waiting", 0 if max_waiting is None else max_waiting, minimum=0)
        self._worker = new_worker(
            model, max_sequences, max_length, cache_dtype, prefix_cache, draft_tokens
        )
        cache, suppressed = self._worker.cache, suppressed_tokens(model, suppress_tokens)
        self._model, self._clock, self._cache_bytes = model, clock, cache.nbytes
        self._max_length = model.max_length if max_length is None else max_length
        self._executor = Executor(model.group, self._worker)
        self._runner = StepRunner(self._executor, cache.batch_size, suppressed, model.pads_steps)
        self._processor = OutputProcessor(suppressed)
        self._drafter = Drafter(self._executor, self._processor.sampler, cache, draft_tokens, clock)
        self._scheduler = Scheduler(
            cache.rank_rows,
            memory=new_memory_budget(model, cache, memory, self._executor),
            prefill_chunk=inputs.as_count("prefill_chunk", prefill_chunk),
            max_step=model.max_step,
            clock=clock,
            prefixes=self._runner,
            pads_steps=model.pads_steps,
        )
        self._lock, self._ids, self._recorder = Lock(), count(), StatsRecorder()
        self._ending: list[tuple[int, str]] = []  # requests to end without a step, and why
        self._failure: Exception | None = None
        self._max_waiting, self._share_events, self._is_stepping = max_waiting, share_events, False

    def __enter__(self) -> Engine:
        """Return the engine, which is closed after the block."""
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Close the engine; an error of the block is an error of those that follow."""
        self.close(error)

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._scheduler.requests)

    @property
    def failure(self) -> Exception | None:
        """Why no request is answered any more: the model's error, or `close`."""
        return self._failure

    @property
    def stats(self) -> EngineStats:
        """Statistics since the engine's start."""
        with self._lock:
            waiting, running = len(self._scheduler.waiting), len(self._scheduler.running)
            usage = self._scheduler.memory_usage()
            sizes = running, waiting, self._cache_bytes, usage, self._drafter.seconds
            return self._recorder.snapshot(*sizes)._replace(expert_cache=store_stats(self._model))

    def submit(
        self,
        prompt_tokens: SequenceOf[int],
        params: SamplingParams | None = None,
        *,
        constraint: Constraint | None = None,
        priority: int = 0,
        first_index: int = 0,
    ) -> int:
        """Let a prompt be answered, and return the request's id.

        Parameters
        ----------
        prompt_tokens : sequence of int
            Token ids, at least one.
        params : SamplingParams, optional
            How tokens are chosen, and when the answer ends; greedy if not given.
        constraint : Constraint, optional
            What the answer may be; every answer has a copy.
        priority : int
            Requests of higher priority are served first.
        first_index : int
            Index of the first answer: answers of equal seed and index have equal noise.

        Raises
        ------
        ValueError
            If a token id, of the parameters too, is outside of the vocabulary, or the prompt, the
            number of answers or their memory can never fit.
        RuntimeError
            If the engine is closed or has failed, or this rank follows.
        QueueFullError
            If `max_waiting` requests wait already.
        """
        params, vocab_size = params or SamplingParams(), self._model.config.vocab_size
        (prompt,) = inputs.as_prompts([prompt_tokens], vocab_size)
        params.check_token_ids(vocab_size)
        inputs.as_count("priority", priority, minimum=-MOST, maximum=MOST)
        inputs.as_count("first_index", first_index, minimum=0, maximum=MOST)
        last = len(prompt) - (params.max_tokens == 0)  # what nothing follows is not computed
        prompt, last_target = prompt[:last], prompt[last:]
        limit = params.limit(self._max_length - len(prompt) + 1)  # the last is not fed back
        self._scheduler.check_fits(prompt, params.n, limit, self._max_length)
        ends = () if params.ignore_eos else self._model.generation_config.eos_token_ids
        with self._lock:
            self._check_open()
            waiting = len(self._scheduler.waiting)
            if self._max_waiting is not None and waiting >= self._max_waiting:
                raise QueueFullError(f"{waiting} requests wait already: max_waiting")
            request = Request(
                next(self._ids),
                prompt,
                params,
                end_tokens=frozenset(params.stop_token_ids).union(ends),
                limit=limit,
                seed=resolve_seed(params.seed, ALONE),  # rank 0's alone counts
                priority=priority,
                arrival=self._clock(),
                last_target=last_target,
            )
            request.add_sequences(first_index, constraint)
            self._scheduler.add(request)
            if limit == 0 and (params.prompt_logprobs is None or not prompt):
                self._ending.append((request.id, "length"))
        return request.id

    def cancel(self, id: int) -> None:  # noqa: A002
        """End a request at the next `step`; nothing happens if it has ended already."""
        with self._lock:
            self._ending.append((id, "cancelled"))

    def close(self, error: BaseException | None = None) -> None:
        """Drop all requests, and free the KV cache; a step that runs ends before.

        `follow` on other ranks returns, or raises if there is an `error`.
        """
        with self._lock:
            self._failure = self._failure or RuntimeError("close() was called")
            self._scheduler.requests.clear()
            if not self._is_stepping:
                self._executor.close(error)

    def follow(self, on_events: Callable[[list[Event]], None] | None = None) -> None:
        """Compute this rank's part of rank 0's steps, until rank 0 closes its engine.

        An error of this rank is to leave its program: then rank 0's requests end with it.
        `on_events` is called with the events of each of rank 0's steps, if it shares them.

        Raises
        ------
        RankError
            If rank 0 fails, or a rank is lost; it is named.
        RuntimeError
            If this is rank 0, or the engine is closed.
        """
        if self._model.group.rank == 0:
            raise RuntimeError("rank 0 leads: call submit() and step()")
        self._check_open(follows=True)
        try:
            self._worker.follow(on_events or (lambda _: None))
        finally:
            self.close()

    def step(self) -> list[Event]:
        """Run one step; return what it added to each answer, and which answers ended.

        If the model cannot go on, every answer ends with its error, and the engine is closed.

        Raises
        ------
        RuntimeError
            If the engine is closed, or this rank follows.
        """
        with self._lock:
            self._check_open()
            events = self._end_waiting()
            self._scheduler.remove_finished(events)
            self._is_stepping = True
        failure = self._compute(events)
        with self._lock:
            self._recorder.finish(events, self._scheduler.requests, self._clock())
            self._scheduler.remove_finished(events)
            self._is_stepping = False
            if failure is None and self._share_events:
                self._executor.share(events)
            if self._failure is not None:
                self._executor.close(failure)
        return events

    def _compute(self, events: list[Event]) -> Exception | None:
        """Run a step, and add its events; return the error that ends the engine, if any.

        An expert that cannot be read ends the requests of the step alone, on a single rank.
        """
        scheduled: list[ScheduledTokens] = []
        try:
            with self._lock:
                scheduled = self._scheduler.schedule()
                self._recorder.begin(scheduled, self._clock())
            decodes = not any(part.sequence.is_prefill for part in scheduled)
            for result in self._runner.run(scheduled):
                with self._lock:
                    events += self._processor(result)
            self._drafter(self._scheduler.running, is_timed=decodes)
        except Exception as error:
            is_passing = isinstance(error, ExpertReadError) and self._model.group.size == 1
            ids = {part.sequence.request.id for part in scheduled}
            with self._lock:
                self._failure = self._failure if is_passing else error
                for id_, request in self._scheduler.requests.items():
                    events += request.end("error", error) if not is_passing or id_ in ids else []
            return None if is_passing else error
        return None

    def run(self) -> dict[int, RequestOutput]:
        """Run steps until no request is left; return the results of all that were left, by id."""
        return dict(self.as_completed())

    def as_completed(self) -> Iterator[tuple[int, RequestOutput]]:
        """Run steps until no request is left; yield each one's id and result as it ends."""
        requests: dict[int, Request] = {}
        while self.has_work:
            with self._lock:
                requests |= self._scheduler.requests
            self.step()
            for id_ in [id_ for id_, request in requests.items() if request.is_finished]:
                yield id_, requests.pop(id_).output()

    def _check_open(self, *, follows: bool = False) -> None:
        if self._failure is not None:
            raise RuntimeError(f"the engine is closed: {self._failure}") from self._failure
        if (rank := self._model.group.rank) and not follows:
            raise RuntimeError(f"rank {rank} follows: call follow()")

    def _end_waiting(self) -> list[Event]:
        """End the requests that were cancelled since the last step, or want nothing computed."""
        ending, self._ending = self._ending, []
        requests = self._scheduler.requests
        return [event for id_, why in ending if id_ in requests for event in requests[id_].end(why)]
