"""A model without arithmetic: a token's logits are a hash of the tokens that its keys stand for.

Keys are token ids, in a real `HybridCache`: a full layer and a sliding one. So logits are equal to
the bit however a sequence is cut into steps, and any stale, missing or foreign key changes them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.kv_cache import HybridCache, new_cache
from mimo_v2_flash.kv_slots import slot_mapping
from mimo_v2_flash.kv_transfer import TRANSFER_ROWS, KVTransfer
from mimo_v2_flash.layers.forward_batch import Step
from mimo_v2_flash.layers.nonfinite import NonFiniteCause, NonFiniteError
from mimo_v2_flash.parallel import ALONE

__all__ = ["WINDOW", "HistoryModel", "layers_of", "logits_after"]

WINDOW = 5


def layers_of(*windows: int, heads: int = 1, channels: int = 1) -> tuple[Any, ...]:
    """Return layers that have what a cache knows of them."""
    sizes = {"num_kv_heads": heads, "head_dim": channels, "v_head_dim": channels}
    return tuple(
        SimpleNamespace(attention=SimpleNamespace(window=window, **sizes)) for window in windows
    )


def logits_after(tokens: Sequence[int], vocabulary: int) -> np.ndarray:
    """Return the logits after a sequence: noise of which every one of its tokens is a seed."""
    generator = np.random.default_rng([len(tokens), *tokens])
    return (generator.standard_normal(vocabulary) * 2).astype(np.float32)


class HistoryModel:
    """A model with the interface that the engine uses, which records its steps.

    It asserts that each token sees as many keys as there are positions before it, in the window of
    the sliding layer the same ones.

    Parameters
    ----------
    vocabulary, max_length, max_step
        As of `MiMoV2FlashModel`.
    eos, suppressed
        The end tokens of its `generation_config`, and the tokens that are never chosen.
    window
        Keys that a token of the sliding layer sees, itself included.
    pads_steps
        Whether steps are rectangles, and tokens are copied by programs of a fixed number of rows.
    nan_after
        A token after which the logits are NaN.
    fails_at
        The step that raises ArithmeticError, counted from 0.
    mtp_heads
        How many MTP heads it has. Half of their drafts are the main model's choice.

    Attributes
    ----------
    steps
        (token_BT, position_BT) of every step.
    """

    def __init__(
        self,
        vocabulary: int = 23,
        max_length: int = 40,
        *,
        max_step: int = 512,
        window: int = WINDOW,
        eos: tuple[int, ...] = (),
        suppressed: tuple[int, ...] = (),
        pads_steps: bool = False,
        nan_after: int | None = None,
        fails_at: int | None = None,
        mtp_heads: int = 3,
    ) -> None:
        self.config = SimpleNamespace(vocab_size=vocabulary)
        self.generation_config = SimpleNamespace(eos_token_ids=eos, suppress_tokens=suppressed)
        self.group = ALONE
        self.max_length, self.max_step, self.pads_steps = max_length, max_step, pads_steps
        self.steps: list[tuple[np.ndarray, np.ndarray]] = []
        self._window, self._nan_after, self._fails_at = window, nan_after, fails_at
        self.mtp_heads, self._poison = mtp_heads, np.random.default_rng(0)

    def new_cache(
        self,
        batch_size: int,
        max_length: Any = None,
        dtype: Any = None,
        *,
        captures: bool = False,
        mtp_heads: int = 0,
    ) -> HybridCache:
        """Return an empty cache for `batch_size` sequences."""
        length = self.max_length if max_length is None else max_length
        cache = new_cache(
            layers_of(NO_WINDOW, *[self._window] * (1 + mtp_heads + bool(mtp_heads))),
            batch_size=batch_size,
            max_length=length,
            captured=self.max_step if captures or self.pads_steps else 0,
        )
        transfer = KVTransfer(rows=TRANSFER_ROWS) if self.pads_steps else KVTransfer()
        self.cache = replace(cache, transfer=transfer)
        return self.cache

    def step(
        self, token_BT: np.ndarray, position_BT: np.ndarray, cache: HybridCache, *, logits_at: Any
    ) -> np.ndarray:
        """Return the logits at `logits_at`, of which those of -1 are NaN."""
        start_B, count_B = cache.check_positions(position_BT)
        self.steps.append((token_BT, position_BT))
        cache.begin_step(start_B, count_B)
        if len(self.steps) - 1 == self._fails_at:
            raise ArithmeticError("the device is gone")
        logits_BnV = np.full((*logits_at.shape, self.config.vocab_size), np.nan, np.float32)
        for row, (start, count) in enumerate(zip(start_B, count_B, strict=True)):
            if count:
                history = [*self._before(cache, row, int(start)), *token_BT[row, :count].tolist()]
                for column in np.flatnonzero(logits_at[row] >= 0):
                    seen = history[: start + logits_at[row, column] + 1]
                    logits_BnV[row, column] = self._logits(seen)
        self._write(cache, token_BT, position_BT, start_B + count_B)
        cache.finish_step(count_B)
        is_bad_B = np.isnan(logits_BnV).all(axis=2) & (np.asarray(logits_at) >= 0)
        if rows := tuple(np.flatnonzero(is_bad_B.any(axis=1)).tolist()):
            causes = {row: NonFiniteCause(None, None, "embedding") for row in rows}
            raise NonFiniteError(rows, causes, (logits_BnV,))
        return logits_BnV

    def greedy(
        self, token_BT: np.ndarray, position_BT: np.ndarray, cache: HybridCache, *, at: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the argmax of the logits at `at`, and that logit."""
        try:
            logits_BnV, error = self.step(token_BT, position_BT, cache, logits_at=at), None
        except NonFiniteError as raised:
            logits_BnV, error = raised.logits, raised
        outputs = np.argmax(logits_BnV, axis=2).astype(np.int32), np.max(logits_BnV, axis=2)
        if error is not None:
            raise NonFiniteError(error.rows, error.causes, outputs)
        return outputs

    @property
    def runner(self) -> "HistoryModel":
        """What an engine's worker runs: this model, as `ModelRunner`."""
        return self

    logits, greedy_tokens = "step", "greedy"

    def forward(
        self, output: str, step: Step, cache: HybridCache, *, everywhere: bool
    ) -> tuple[np.ndarray, ...]:
        """Return the logits, or greedy tokens and their logits; those of bad rows are NaN."""
        assert not everywhere
        index_T = np.arange(step.token_BT.shape[1])
        is_token_BT = index_T < step.count_B[:, None]
        position_BT = np.where(is_token_BT, step.start_B[:, None] + index_T, -1)
        call = self.step if output == "step" else self.greedy
        at = {"logits_at" if output == "step" else "at": step.index_Bn}
        self._error = None
        try:
            outputs: Any = call(step.token_BT, position_BT, cache, **at)
        except NonFiniteError as error:
            self._error, outputs = error, error.outputs
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs[-1][step.index_Bn < 0] = 0
        return outputs

    def draft(
        self, head: int, output: str, step: Step, cache: HybridCache
    ) -> tuple[np.ndarray, ...]:
        """Return an MTP head's logits, or the greedy tokens: the model's, or noise, half and half.

        It asserts that the hidden states are there that the head reads.
        """
        logits_BnV = np.zeros((*step.index_Bn.shape, self.config.vocab_size), np.float32)
        ring, slots = cache.layers[-1], cache.slots[-1]
        for row, (start, count) in enumerate(zip(step.start_B, step.count_B, strict=True)):
            if not count:
                continue
            before = self._before(cache, row, int(start))
            history = [*before, *step.token_BT[row, :count].tolist()]
            for position in range(max(int(start), head + 1), len(history)):
                source = position - 1 - head
                slot = (cache.first_row + row) * slots + source % slots
                assert (ring.position_Z[slot], ring.k_ZKQ[slot, 0, 0]) == (source, history[source])
            seen = [head, *history] if sum(history) % 2 else history
            logits_BnV[row, 0] = self._logits(seen)
        return self._outputs(output, logits_BnV)

    def _outputs(self, output: str, logits_BnV: np.ndarray) -> tuple[np.ndarray, ...]:
        if output == "step":
            return (logits_BnV,)
        return np.argmax(logits_BnV, axis=2).astype(np.int32), np.max(logits_BnV, axis=2)

    def nonfinite_error(
        self,
        rows: tuple[int, ...],
        outputs: tuple[np.ndarray, ...],
        _: str,
        step: Step,
        cache: HybridCache,
    ) -> NonFiniteError:
        """Return the error of the last step, which bad rows lose."""
        assert self._error is not None
        assert self._error.rows == rows
        is_bad_B = np.isin(np.arange(len(step.count_B)), rows)
        cache.discard(np.where(is_bad_B, step.start_B, cache.length_B), lambda part: part)
        return NonFiniteError(rows, self._error.causes, outputs)

    def poison(self, rows: Iterable[int]) -> None:
        """Fill rows of the last cache, and what it captured, as other sequences would have."""
        cache, random = self.cache, self._poison
        for index, (layer, slots) in enumerate(zip(cache.layers, cache.slots, strict=True)):
            for row in rows:
                part = slice(row * slots, (row + 1) * slots)
                turns = random.integers(0, cache.max_length // slots + 1, slots)
                layer.position_Z[part] = np.arange(slots) + turns * slots
                layer.k_ZKQ[part] = random.integers(0, 99, (slots, 1, 1))
            layer.k_ZKQ[cache.capture_start(index) :] = -1

    def _logits(self, seen: list[int]) -> np.ndarray:
        if self._nan_after in seen[-1:]:
            return np.full(self.config.vocab_size, np.nan, np.float32)
        return logits_after(seen, self.config.vocab_size)

    def _write(
        self,
        cache: HybridCache,
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        end_B: np.ndarray,
    ) -> None:
        """Write a step's tokens in one flat pass; if it were several, what they capture is lost."""
        row_N, column_N = np.nonzero(position_BT >= 0)
        position_N, end_N = position_BT[row_N, column_N], end_B[row_N]
        captures = cache.captured >= len(row_N) > 0
        for index, (layer, slots) in enumerate(zip(cache.layers, cache.slots, strict=True)):
            is_ring = slots < cache.max_length
            row = slot_mapping(
                position_N,
                cache.first_row + row_N,
                end_N,
                slots=slots,
                trash=layer.position_Z.shape[0] - 1,
                capture_start=cache.capture_start(index) if captures and is_ring else None,
            )
            layer.k_ZKQ[row, 0, 0] = token_BT[row_N, column_N]
            layer.position_Z[row] = position_N

    def _before(self, cache: HybridCache, row: int, start: int) -> list[int]:
        """Return the tokens before a step, from the keys that a kernel would not mask."""
        tokens = []
        for layer, window in ((0, cache.max_length), (1, self._window)):
            slots, parts = cache.slots[layer], cache.layers[layer]
            part = slice((cache.first_row + row) * slots, (cache.first_row + row + 1) * slots)
            position_S = parts.position_Z[part]
            seen_S = (position_S < start) & (position_S >= max(0, start - window + 1))
            order = np.argsort(position_S[seen_S], kind="stable")
            tokens.append(list(map(int, parts.k_ZKQ[part, 0, 0][seen_S][order])))
        full, sliding = tokens
        assert len(full) == start, f"{len(full)} of {start} keys"
        assert sliding == full[max(0, start - self._window + 1) :], (sliding, full)
        return full
