"""The worker: one rank's part of the engine: its rows of the cache, and its known prefixes.

It knows no requests. Rank 0's `Executor` calls its own worker, and sends the same calls to those of
the other ranks, so that caches and prefix trees of all ranks stay equal.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.expert_store import find_store
from mimo_v2_flash.inputs import as_count, as_draft_tokens
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.head import as_greedy
from mimo_v2_flash.parallel import RankError, check_consistent

from .memory_size import memory_size
from .prefix_store import PrefixStore

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.layers.head import HeadOutput
    from mimo_v2_flash.layers.nonfinite import NonFiniteError
    from mimo_v2_flash.model import MiMoV2FlashModel

__all__ = ["RowTokens", "StepPlan", "Worker", "drafting_heads", "new_worker"]


class RowTokens(NamedTuple):
    """One row's part of a step.

    Attributes
    ----------
    row
        The row of the cache.
    start
        The position of the first token.
    tokens
        The token ids.
    wanted
        Of how many of the tokens, the last ones, the outputs are wanted.
    drafts
        How many of the tokens, the last ones, are drafts.
    """

    row: int
    start: int
    tokens: list[int]
    wanted: int
    drafts: int = 0


class StepPlan(NamedTuple):
    """A step of the model, as plain data that all ranks execute alike.

    Attributes
    ----------
    first_row, rows
        The rows of the cache that the step spans, idle ones too.
    parts
        The rows that have tokens, in their order.
    greedy
        Whether greedy tokens are wanted, and not logits.
    """

    first_row: int
    rows: int
    parts: tuple[RowTokens, ...]
    greedy: bool

    def columns(self, index_R: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return where the outputs of some rows are, after their last token and after each draft.

        They are the indices (index_R1, column_Rn) into outputs [B, n]; rows with fewer drafts than
        others repeat the last output.
        """
        by_index = {part.row - self.first_row: part for part in self.parts}
        parts = [by_index[index] for index in index_R]
        first_R = np.array([part.wanted - 1 - part.drafts for part in parts], np.int64)
        draft_R1 = np.array([[part.drafts] for part in parts], np.int64).reshape(-1, 1)
        width = 1 + max((part.drafts for part in parts), default=0)
        column_Rn = first_R[:, None] + np.minimum(np.arange(width), draft_R1)
        return np.array(index_R, np.int64)[:, None], column_Rn

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (token_BT, position_BT, index_Bn), padded; unwanted indices are -1."""
        width = max(len(part.tokens) for part in self.parts)
        wanted = max(1, *(part.wanted for part in self.parts))
        token_BT = np.zeros((self.rows, width), np.int32)
        position_BT = np.full((self.rows, width), -1, np.int32)
        index_Bn = np.full((self.rows, wanted), -1)
        for row, start, tokens, count, _ in self.parts:
            index, length = row - self.first_row, len(tokens)
            token_BT[index, :length] = tokens
            position_BT[index, :length] = np.arange(start, start + length)
            index_Bn[index, :count] = np.arange(length - count, length)
        return token_BT, position_BT, index_Bn


class Worker:
    """Fills rows of the cache, runs the model on them, and keeps prefixes, as one of the ranks.

    Parameters
    ----------
    model, cache
        This rank's part of the model, and its rows of the cache.
    prefixes
        The prefix store of each data-parallel rank; none if no prefix is kept.
    mtp_heads
        How many MTP heads draft; the cache has room for what they read.

    Attributes
    ----------
    cache, prefixes, mtp_heads
        The parameters of these names.
    """

    def __init__(
        self,
        model: MiMoV2FlashModel,
        cache: HybridCache,
        prefixes: Sequence[PrefixStore] = (),
        mtp_heads: int = 0,
    ) -> None:
        self._model, self.cache, self.prefixes = model, cache, prefixes
        self.mtp_heads = mtp_heads
        self._row_tokens: dict[int, list[int]] = {}  # of each row, what is in the cache
        self._plan: StepPlan
        self._last: tuple[HeadOutput, Step, HybridCache]  # how the last step's plan was executed

    @property
    def runs_programs(self) -> bool:
        """Whether tokens are copied by programs, which all ranks run together."""
        return self._model.pads_steps

    def known(self, rank: int, tokens: Sequence[int]) -> int:
        """Return where a prompt starts whose row is on a data-parallel rank."""
        return self.prefixes[rank].known(tokens) if self.prefixes else 0

    def restore(self, row: int, tokens: Sequence[int]) -> int:
        """Fill a row with what is known of a prompt; return where the prompt starts."""
        if not self.prefixes:
            return 0
        start = self.prefixes[self.cache.rank_of(row)].restore(tokens, row)
        if start:
            self._forget_heads(row)
        self._row_tokens[row] = list(tokens[:start])
        return start

    def copy(self, source: int, target: int) -> None:
        """Copy a row to another one of its rank."""
        self.cache.copy_sequence(source, target)
        self._row_tokens[target] = list(self._row_tokens[source])

    def give_back(self, row: int, start: int, stop: int) -> bool:
        """Give the pages of a row's tokens back, as `HybridCache.give_back`.

        Parameters
        ----------
        row : int
            Row of the KV cache.
        start, stop : int
            First position, and the one behind the last.
        """
        return self.cache.give_back(row, start, stop)

    def resize_prefixes(self, rank: int, budget: int) -> None:
        """Let the prefixes of a data-parallel rank have another budget of bytes."""
        self.prefixes[rank].resize(budget)

    @single_threaded_blas
    def step(self, plan: StepPlan) -> tuple[np.ndarray, ...]:
        """Run a step; return (token_Bn, logit_Bn) or (logits_BnV,), of use on rank 0 alone.

        It is a collective call. Rows with NaN or infinity have NaN in the last output.
        """
        token_BT, position_BT, index_Bn = plan.arrays()
        runner, cache = self._model.runner, self._rows(plan)
        step = Step(token_BT, *cache.check_positions(position_BT), index_Bn)
        output = runner.greedy_tokens if plan.greedy else runner.logits
        self._plan, self._last = plan, (output, step, cache)
        outputs = runner.forward(output, step, cache, everywhere=False)
        for part in plan.parts:
            if not part.start:
                self._forget_heads(part.row)
            self._row_tokens.setdefault(part.row, [])[part.start :] = part.tokens
        return as_greedy(outputs) if plan.greedy else outputs

    @single_threaded_blas
    def draft(self, head: int, plan: StepPlan) -> tuple[np.ndarray, ...]:
        """Let an MTP head read tokens and drafts; return as `step` what comes after the last.

        It is a collective call. Outputs with NaN or infinity are no drafts, and no error.
        """
        token_BT, position_BT, index_Bn = plan.arrays()
        runner, cache = self._model.runner, self._rows(plan)
        count_B = np.sum(position_BT >= 0, axis=1)
        step = Step(token_BT, np.maximum(position_BT[:, 0], 0), count_B, index_Bn)
        output = runner.greedy_tokens if plan.greedy else runner.logits
        outputs = runner.draft(head, output, step, cache)
        return as_greedy(outputs) if plan.greedy else outputs

    def _forget_heads(self, row: int) -> None:
        """Empty what MTP heads have read in a row that another sequence had."""
        for layer in _head_layers(self.cache, self.mtp_heads):
            row_N = self.cache.flat_rows(layer, row, np.arange(self.cache.slots[layer]))
            self.cache.transfer.empty((self.cache.layers[layer],), row_N)

    def _rows(self, plan: StepPlan) -> HybridCache:
        """Return the rows of the cache that a plan spans."""
        if plan.rows == self.cache.batch_size:
            return self.cache
        return self.cache.view(plan.first_row, plan.first_row + plan.rows)

    @single_threaded_blas
    def explain(
        self, rows: tuple[int, ...], outputs: tuple[np.ndarray, ...] = ()
    ) -> NonFiniteError:
        """Return the error of the last step's bad rows, counted in its plan: a collective call."""
        output, step, cache = self._last
        return self._model.runner.nonfinite_error(rows, outputs, output, step, cache)

    def save(self, bad_rows: Sequence[int]) -> None:
        """Keep the prefixes that the last step completed, but for bad rows of its plan.

        One that ends with a draft is kept too: it is right, and known if the draft is accepted.
        """
        plan = self._plan
        if sum(len(part.tokens) for part in plan.parts) > self._model.max_step:
            return  # what the rings lost of all passes but the last is gone
        first_tokens = [0] * len(self.prefixes)
        for row, start, tokens, *_ in plan.parts:
            rank = self.cache.rank_of(row)
            if row - plan.first_row not in bad_rows:
                known = self._row_tokens[row]
                self.prefixes[rank].save(known, row, start, first_tokens[rank])
            first_tokens[rank] += len(tokens)

    def release(self) -> None:
        """Free the cache and all prefixes; nothing runs any more."""
        for name in ("cache", "_last"):
            self.__dict__.pop(name, None)
        self.prefixes = ()

    def follow(self, on_shared: Callable[[Any], None]) -> None:
        """Do what rank 0's executor sends, until it closes.

        Parameters
        ----------
        on_shared
            Called with each value that rank 0 shares.

        Raises
        ------
        RankError
            If rank 0 fails, or a rank is lost.
        """
        while True:
            for name, *args in pickle.loads(self._model.group.broadcast(b"")):
                if name == "share":
                    on_shared(*args)
                elif name != "close":
                    getattr(self, name)(*args)
                elif args == [None]:
                    return
                else:
                    raise RankError(f"rank 0 raised {args[0]}")


def new_worker(
    model: MiMoV2FlashModel,
    max_sequences: int,
    max_length: int | None,
    cache_dtype: Any,
    prefix_cache: int | str,
    draft_tokens: int | str = 0,
) -> Worker:
    """Return this rank's worker, of an empty cache and no known prefix: a collective call.

    Parameters
    ----------
    model : MiMoV2FlashModel
        The model, on this rank.
    max_sequences : int
        Rows of the KV cache.
    max_length : int or None
        The most tokens of a sequence; the model's if None.
    cache_dtype : dtype or None
        Dtype of the KV cache; the model's if None.
    prefix_cache : int or str
        Budget of known prefixes, as for `Engine`.
    draft_tokens : int or "auto"
        Tokens that MTP heads draft for each step.
    """
    rows = as_count("max_sequences", max_sequences)
    options = {"max_sequences": rows, "max_length": max_length, "cache_dtype": cache_dtype}
    check_consistent(model.group, **options, draft_tokens=draft_tokens)
    budget = memory_size("prefix_cache", prefix_cache, model.group)
    mtp_heads = drafting_heads(model, draft_tokens)
    options = {"captures": budget > 0, "mtp_heads": mtp_heads}
    cache = model.new_cache(rows, max_length, cache_dtype, **options)
    omitted = _head_layers(cache, mtp_heads)
    stores = [PrefixStore(cache, budget, omitted) for _ in cache.rank_rows if budget]
    return Worker(model, cache, stores, mtp_heads)


def drafting_heads(model: MiMoV2FlashModel, draft_tokens: int | str) -> int:
    """Return how many MTP heads draft, with "auto" at most; ValueError if there are fewer.

    With "auto" none do where steps are padded, since each number of drafts would be other programs,
    nor where experts are read from disk, of which drafts choose more.
    """
    drafts = as_draft_tokens(draft_tokens, model.mtp_heads)
    if drafts != "auto":
        return drafts
    return 0 if model.pads_steps or find_store(model) else model.mtp_heads


def _head_layers(cache: HybridCache, mtp_heads: int) -> range:
    """Return which layers of a cache are those of MTP heads; the hidden states are after them."""
    last = len(cache.layers) - 1
    return range(last - mtp_heads, last)
