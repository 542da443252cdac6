"""A scheduler and its memory without a model: tokens are counted as computed."""

from types import SimpleNamespace
from typing import NamedTuple

from hypothesis import strategies as st

from mimo_v2_flash.engine.memory_budget import MemoryBudget
from mimo_v2_flash.engine.request import Request, Sequence
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.engine.scheduler import Scheduler
from mimo_v2_flash.kv_bytes import KVBytes

__all__ = ["Simulation", "arrivals", "arrive"]

PLAIN, BYTE_PER_TOKEN = SamplingParams(), KVBytes(0, 0, 1)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Store:
    """A prefix store that keeps as many bytes as it may.

    Attributes
    ----------
    budget, nbytes
        Bytes that it may take, and those that it takes.
    """

    def __init__(self, budget: int) -> None:
        self.budget, self.nbytes = budget, 0

    def resize(self, budget: int) -> None:
        """Take another budget, and drop what is beyond it."""
        assert budget >= 0
        self.budget, self.nbytes = budget, min(self.nbytes, budget)


class Pages:
    """The memory of rows as it is written and given back: what a `MemoryBudget` only counts.

    Attributes
    ----------
    prefixes
        The prefix store of each rank.
    written
        Tokens of each row whose pages are in memory.
    gives_back, releases
        Whether the system takes pages back, and how often it did.
    """

    def __init__(
        self, rank_rows, sizes: KVBytes, *, prefix_bytes: int = 0, gives_back: bool = True
    ):
        self._ranks, self._sizes, self.gives_back = rank_rows, sizes, gives_back
        self.prefixes = [Store(prefix_bytes) for _ in rank_rows] if prefix_bytes else []
        self.written = [0] * rank_rows[-1].stop
        self.releases = 0

    def give_back(self, row: int, start: int, stop: int) -> bool:
        """Forget the tokens of a row from `start` on."""
        assert start < stop
        assert stop >= self.written[row], "pages would be left behind"
        if self.gives_back:
            self.written[row], self.releases = min(self.written[row], start), self.releases + 1
        return self.gives_back

    def resize_prefixes(self, rank: int, budget: int) -> None:
        """Let a prefix store have another budget."""
        self.prefixes[rank].resize(budget)

    def write(self, row: int, tokens: int) -> None:
        """Write the first tokens of a row; prefixes are kept of them."""
        self.written[row] = max(self.written[row], tokens)
        for store in self.prefixes:
            store.nbytes = min(store.budget, store.nbytes + tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the rank that has most."""
        fixed, sequence, token = self._sizes
        rows = [
            sum(sequence + token * count for count in self.written[members] if count)
            for members in self._ranks
        ]
        stores = [store.nbytes for store in self.prefixes] or [0] * len(rows)
        return fixed + max(map(sum, zip(rows, stores, strict=True)))


class Simulation:
    """A scheduler whose steps are run by nobody: tokens are counted as computed.

    Its memory is `limit` bytes of each rank, by default a byte a token.

    Attributes
    ----------
    trace
        Of every step, the tokens of each sequence: {(request, answer): (start, count, is_prefill)}.
    began
        Requests in the order in which they got rows.
    memory, pages
        The scheduler's memory, and what is true of it.
    """

    def __init__(
        self,
        rank_rows=(slice(0, 4),),
        *,
        prefill_chunk: int = 8,
        max_step: int = 512,
        limit: int | None = None,
        sizes: KVBytes = BYTE_PER_TOKEN,
        known: int = 0,
        known_prefix=lambda *_: 0,
        **pages,
    ) -> None:
        self.clock, self._known, self._limit = Clock(), known, limit
        self.pages = Pages(rank_rows, sizes, **pages)
        self.memory = MemoryBudget(rank_rows, sizes, limit, self.pages)
        self.scheduler = Scheduler(
            rank_rows,
            memory=self.memory,
            prefill_chunk=prefill_chunk,
            max_step=max_step,
            clock=self.clock,
            prefixes=SimpleNamespace(restore_prefix=self._begin, known_prefix=known_prefix),
        )
        self.trace: list[dict] = []
        self.began: list[int] = []
        self.left: dict[int, int] = {}

    def add(
        self, id_: int, prompt: int, new: int = 2, *, n: int = 1, priority: int = 0, params=PLAIN
    ) -> Request:
        """Add a request of `prompt` tokens whose answers have `new`."""
        request = Request(
            id_,
            list(range(1000 * id_, 1000 * id_ + prompt)),
            params,
            frozenset(),
            new,
            0,
            priority,
            self.clock.now,
        )
        request.sequences = [Sequence(request, index) for index in range(n)]
        self.scheduler.add(request)
        return request

    def step(self, seconds: float = 1.0) -> dict:
        """Run a step as the engine does, and check what is true of any."""
        scheduled = self.scheduler.schedule()
        rows = [sequence.row for sequence in self.scheduler.running]
        assert len(set(rows)) == len(rows)
        assert None not in rows
        step = {}
        for part in scheduled:
            sequence, count = part.sequence, len(part.tokens)
            key = sequence.request.id, sequence.index
            assert key not in step
            assert count > 0
            step[key] = sequence.computed, count, sequence.is_prefill
            every = [*sequence.request.prompt_tokens, *sequence.new_tokens]
            assert part.tokens == every[sequence.computed : sequence.computed + count]
            self._compute(part)
        self.check_memory()
        self.trace.append(step)
        self.clock.now += seconds
        return step

    def check_memory(self) -> None:
        """Assert that rows and prefixes are counted, and within the limit."""
        usage = self.memory.usage()
        assert usage.max_memory_bytes == self._limit
        assert usage.peak_memory_bytes >= usage.memory_bytes
        if self._limit is not None and self.pages.gives_back:
            assert self.pages.nbytes <= self._limit

    def cancel(self, request: Request) -> None:
        """End a request as the engine does."""
        for sequence in request.sequences:
            sequence.finish_reason = sequence.finish_reason or "cancelled"
            self.scheduler.remove(sequence)

    def run(self, seconds: float = 1.0) -> None:
        """Run until nothing is left."""
        for _ in range(5000):
            if not self.scheduler.running and not self.scheduler.waiting:
                return
            assert self.step(seconds), "a step without tokens: starvation"
        raise AssertionError("not done")

    def _begin(self, sequence: Sequence) -> None:
        self.began.append(sequence.request.id)
        sequence.computed = min(self._known, len(sequence.request.prompt_tokens) - 1)
        self.pages.write(sequence.row, sequence.computed)

    def _compute(self, part) -> None:
        sequence, is_last = part.sequence, part.is_last
        was_prefill = sequence.is_prefill
        sequence.computed += len(part.tokens)
        self.pages.write(sequence.row, sequence.computed)
        if not is_last:
            return
        for each in sequence.request.sequences if was_prefill else [sequence]:
            if each.row is None:
                continue
            each.computed = sequence.computed
            self.pages.write(each.row, each.computed)
            each.new_tokens.append(7)
            if len(each.new_tokens) == sequence.request.limit:
                each.finish_reason = "length"
                self.scheduler.remove(each)


class Arrival(NamedTuple):
    """A request of a drawn schedule."""

    step: int
    prompt: int
    new: int
    n: int
    priority: int
    patience: int | None


arrivals = st.builds(
    Arrival,
    st.integers(0, 12),
    st.integers(1, 40),
    st.integers(1, 6),
    st.sampled_from([1, 1, 1, 2]),
    st.integers(0, 3),
    st.sampled_from([None, None, None, 0, 2, 9]),
)


def arrive(simulation: Simulation, schedule, seconds: float) -> dict[int, Request]:
    """Return the requests by their ids, which have come, and some of which have been cancelled."""
    requests: dict[int, Request] = {}
    for step in range(13):
        for id_, each in enumerate(schedule):
            if each.step == step:
                options = {"n": each.n, "priority": each.priority}
                requests[id_] = simulation.add(id_, each.prompt, each.new, **options)
            if each.patience is not None and step == each.step + each.patience:
                simulation.cancel(requests[id_])
        simulation.step(seconds)
    return requests
