"""The scheduler: which tokens of which sequences the next step computes.

A step has the next token of every sequence that generates, with drafts, then chunks of prompts
within a budget, so that a long prompt delays the others by one chunk at most. Requests are admitted
first come, first served, as rows and memory allow; higher priorities go first, and a request that
waits gains one every 10 seconds.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from .memory_budget import MemoryBudget, MemoryUsage
from .outputs import Event
from .prefix_store import BLOCK
from .request import Request, Sequence, most_tokens

__all__ = ["ScheduledTokens", "Scheduler"]

SECONDS_PER_PRIORITY = 10.0
PROMPT_LOGITS = 256  # tokens of prompts whose logits are in memory together


class ScheduledTokens(NamedTuple):
    """A sequence's part of a step: its next tokens, as many as are computed, and drafts of more."""

    sequence: Sequence
    tokens: list[int]
    drafts: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether these are all tokens of the sequence so far, so that the next is to be chosen."""
        return self.sequence.computed + len(self.tokens) == self.sequence.length


class Prefixes(Protocol):
    """What knows the beginnings of prompts: protocol of `StepRunner`."""

    def known_prefix(self, request: Request, rank: int) -> int:
        """Return how many tokens of a prompt need not be computed on a data-parallel rank."""

    def restore_prefix(self, sequence: Sequence) -> None:
        """Fill the row of a sequence that begins to run, and set how much is known."""


class Scheduler:
    """Admits requests to rows of the KV cache, and plans steps.

    Parameters
    ----------
    rank_rows
        The rows of each data-parallel rank.
    memory
        The memory of rows: a request waits until its tokens fit.
    prefill_chunk
        The most tokens of prompts in a step.
    max_step
        The most tokens in a step, of prompts and others: a chunk is shortened to this, but prompts
        always get one token.
    clock
        A function that returns the time in seconds.
    pads_steps
        Whether the model pads its steps: chunks are then steps of their own.
    prefixes
        What knows how much of a prompt need not be computed.

    Attributes
    ----------
    requests
        All that have not ended, by id.
    waiting, running
        Requests that wait for rows, and sequences that have one.
    rows_per_request
        The most answers that a request may have: its rows are of one rank.
    """

    def __init__(
        self,
        rank_rows: tuple[slice, ...],
        *,
        memory: MemoryBudget,
        prefill_chunk: int,
        max_step: int,
        clock: Callable[[], float],
        prefixes: Prefixes,
        pads_steps: bool = False,
    ) -> None:
        self._free = [list(range(rows.start, rows.stop)) for rows in rank_rows]
        self.rows_per_request = max(map(len, self._free))
        self._memory, self._prefill_chunk, self._max_step = memory, prefill_chunk, max_step
        self._clock, self._prefixes, self._pads_steps = clock, prefixes, pads_steps
        self.requests: dict[int, Request] = {}
        self.waiting: list[Request] = []
        self.running: list[Sequence] = []

    def check_fits(self, prompt: list[int], answers: int, limit: int, max_length: int) -> None:
        """Raise ValueError if a prompt, its answers, or their memory can never fit.

        Parameters
        ----------
        prompt : list of int
            Token ids.
        answers : int
            Number of answers.
        limit : int
            The most tokens of an answer.
        max_length : int
            The most tokens of a sequence.
        """
        if len(prompt) > max_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, the engine's max_length is {max_length}"
            )
        most = self.rows_per_request
        if answers > most:
            raise ValueError(f"n is {answers}, allowed is 1..{most}: each answer has a row")
        self._memory.check(answers, most_tokens(prompt, limit))

    def add(self, request: Request) -> None:
        """Let a request wait for its rows."""
        self.requests[request.id] = request
        self.waiting.append(request)

    def remove_finished(self, events: list[Event]) -> None:
        """Give the rows of answers back that `events` end, and forget finished requests."""
        for event in events:
            if event.finish_reason and (request := self.requests.get(event.id)):
                for sequence in request.sequences:
                    if sequence.finish_reason:
                        self.remove(sequence)
                if request.is_finished:
                    del self.requests[event.id]

    def remove(self, sequence: Sequence) -> None:
        """Give a sequence's row back; a request whose sequences never ran stops waiting."""
        if sequence.row is None:
            if sequence.request in self.waiting:
                self.waiting.remove(sequence.request)
            return
        free = self._free[sequence.rank]
        free.append(sequence.row)
        free.sort()
        self._memory.release(sequence.row, sequence.computed)
        self.running.remove(sequence)
        sequence.row = None

    def schedule(self) -> list[ScheduledTokens]:
        """Return the tokens of the next step; requests for which there is room begin to run."""
        self.memory_usage()
        self._memory.settle()
        self._admit()
        decoding = [sequence for sequence in self.running if not sequence.is_prefill]
        step = [
            ScheduledTokens(each, each.unseen(1), tuple(draft.token for draft in each.drafts))
            for each in decoding
        ]
        decoded = sum(1 + len(part.drafts) for part in step)
        room = self._max_step - (0 if self._pads_steps else decoded)
        budget = max(1, min(self._prefill_chunk, room))
        prefilling = [sequence for sequence in self.running if self._computes_prompt(sequence)]
        prefilling.sort(key=lambda sequence: self._urgency(sequence.request))
        for sequence in prefilling:
            tokens = sequence.unseen(_chunk(sequence, budget))
            step.append(ScheduledTokens(sequence, tokens))
            budget -= len(tokens)
            if budget == 0:
                break
        return step

    def memory_usage(self) -> MemoryUsage:
        """Return the memory in use, the tokens of the last step included."""
        for sequence in self.running:
            self._memory.record(sequence.running_row, sequence.computed)
        return self._memory.usage()

    def _admit(self) -> None:
        """Give rows to waiting requests, the most urgent first, until one has to wait."""
        if not self.waiting or not any(self._free):
            return
        for request in sorted(self.waiting, key=self._urgency):
            place = self._place(request)
            if place is None:
                return  # those after it do not overtake it
            rank, rows = place
            self.waiting.remove(request)
            for sequence, row in zip(request.sequences, rows, strict=True):
                sequence.rank, sequence.row = rank, row
                self.running.append(sequence)
            self._prefixes.restore_prefix(request.sequences[0])

    def _place(self, request: Request) -> tuple[int, list[int]] | None:
        """Return a rank and free rows of it, with memory for a request; None if it has to wait.

        It is the rank that knows most of the prompt. Where ranks know equally much, the one with
        most free rows gets it, so that their numbers of sequences stay even.
        """
        count = len(request.sequences)
        ranks = [rank for rank, free in enumerate(self._free) if len(free) >= count]
        if len(ranks) > 1:
            known = {rank: self._prefixes.known_prefix(request, rank) for rank in ranks}
            ranks.sort(key=lambda rank: (known[rank], len(self._free[rank])), reverse=True)
        for rank in ranks:
            rows = self._free[rank][:count]  # the lowest: attention spans all rows in use
            if self._memory.reserve(rows, request.most_tokens):
                del self._free[rank][:count]
                return rank, rows
        return None

    def _computes_prompt(self, sequence: Sequence) -> bool:
        """Return whether a sequence computes its prompt; others copy the row of the first."""
        is_first = sequence is sequence.request.sequences[0]
        return sequence.is_prefill and is_first

    def _urgency(self, request: Request) -> tuple[float, int]:
        """Return the key by which requests are served, the least first."""
        waited = (self._clock() - request.arrival) // SECONDS_PER_PRIORITY
        return -(request.priority + waited), request.id


def _chunk(sequence: Sequence, budget: int) -> int:
    """Return the length of a chunk within a budget; where it can, it ends with a prefix block."""
    if sequence.wants_prompt_logprobs:
        return min(budget, PROMPT_LOGITS)
    past = (sequence.computed + budget) % BLOCK
    return budget - past if past < budget < len(sequence.unseen(budget + 1)) else budget
