"""The executor: rank 0's calls to the workers of all ranks.

Its own worker does a call at once. The others get all calls up to a step in one broadcast: a step
costs no other message that is not the model's.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from mimo_v2_flash.layers.nonfinite import NonFiniteError, bad_rows

if TYPE_CHECKING:
    import numpy as np

    from mimo_v2_flash.parallel import HostGroup

    from .prefix_store import PrefixStore
    from .worker import StepPlan, Worker

__all__ = ["Executor"]


class Executor:
    """Calls the workers of all ranks, in one order; the methods are those of `Worker`.

    Parameters
    ----------
    group
        The ranks, of which this is rank 0.
    worker
        This rank's worker.
    """

    def __init__(self, group: HostGroup, worker: Worker) -> None:
        self._group, self._worker = group, worker
        self._calls: list[tuple[Any, ...]] = []  # since the last broadcast
        self._is_open, self._is_broken = True, False

    def known(self, rank: int, tokens: Sequence[int]) -> int:
        """Return where a prompt starts whose row is on a data-parallel rank."""
        return self._worker.known(rank, tokens)

    def restore(self, row: int, tokens: Sequence[int]) -> int:
        """Fill a row with what is known of a prompt; return where the prompt starts."""
        start = self._worker.known(self._worker.cache.rank_of(row), tokens)
        if not start:
            return self._worker.restore(row, tokens)  # which is not to be sent
        known = tokens[: start + 1]  # the same start follows from these
        return int(self._call("restore", row, known, now=self._worker.runs_programs))

    def copy(self, source: int, target: int) -> None:
        """Copy a row to another one of its rank."""
        self._call("copy", source, target, now=self._worker.runs_programs)

    @property
    def prefixes(self) -> Sequence[PrefixStore]:
        """The prefix store of each data-parallel rank; none if no prefix is kept."""
        return self._worker.prefixes

    def give_back(self, row: int, start: int, stop: int) -> bool:
        """Give the pages of a row's tokens back to the system; return whether it takes any.

        Parameters
        ----------
        row : int
            Row of the KV cache.
        start, stop : int
            First position, and the one behind the last.
        """
        return bool(self._call("give_back", row, start, stop))

    def resize_prefixes(self, rank: int, budget: int) -> None:
        """Let the prefixes of a data-parallel rank have another budget of bytes."""
        self._call("resize_prefixes", rank, budget)

    @property
    def mtp_heads(self) -> int:
        """How many MTP heads draft."""
        return self._worker.mtp_heads

    def length(self, row: int) -> int:
        """Return how many tokens a row of the cache holds."""
        return int(self._worker.cache.length_B[row])

    def draft(self, head: int, plan: StepPlan) -> tuple[np.ndarray, ...]:
        """Let an MTP head read tokens and drafts; return what comes after the last, as `step`."""
        outputs: tuple[np.ndarray, ...] = self._call("draft", head, plan, now=True)
        return outputs

    def share(self, value: Any) -> None:
        """Let `Worker.follow` have a value, with the next step or the end."""
        self._later("share", value)

    def step(self, plan: StepPlan) -> tuple[tuple[np.ndarray, ...], NonFiniteError | None]:
        """Run a step, and keep the prefixes that it completed.

        Returns
        -------
        outputs
            (token_Bn, logit_Bn), or (logits_BnV,) unless the plan is greedy.
        error
            What became of rows with NaN or infinity, counted in the plan; None if there are none.
        """
        with self._breaking():
            outputs, error = self._call("step", plan, now=True), None
            if rows := bad_rows(outputs):
                self._send("explain", rows)
                error = self._worker.explain(rows, outputs)
            if self._worker.prefixes:
                self._call("save", rows, now=self._worker.runs_programs)
        return outputs, error

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        """Take note of an error of the block: other ranks may be in any of its collectives."""
        try:
            yield
        except BaseException:
            self._is_broken = True
            raise

    def _call(self, name: str, *args: Any, now: bool = False) -> Any:
        """Do a call on all ranks: the others do it with the next broadcast, or `now`.

        What runs programs is done now: a program may wait until all ranks run it.
        """
        with self._breaking() if now else nullcontext():
            (self._send if now else self._later)(name, *args)
            return getattr(self._worker, name)(*args)

    def close(self, error: BaseException | None = None) -> None:
        """Let the workers of other ranks end, because of `error` if there is one; free this one."""
        if not self._is_open:
            return
        self._is_open = False
        if self._is_broken:
            self._group.abort(error or RuntimeError("the engine is closed"))
        else:
            self._send("close", None if error is None else f"{type(error).__name__}: {error}")
        self._worker.release()

    def _later(self, *call: Any) -> None:
        """Let the other ranks do a call with the next broadcast."""
        if self._group.size > 1:
            self._calls.append(call)

    def _send(self, *call: Any) -> None:
        """Broadcast a call, after those that wait."""
        if self._group.size > 1 and self._group.rank == 0:
            calls, self._calls = [*self._calls, call], []
            self._group.broadcast(pickle.dumps(calls))
