"""Static execution mode, of compiled programs: a few fixed shapes that hold any data."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.kernels.moe_expert import capacity_experts
from mimo_v2_flash.kernels.moe_router import moe_router
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.kernels.rope_partial import rope_partial
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.parallel import ALONE, Group, HostGroup
from mimo_v2_flash.parallel.device_group import DeviceGroup

from .device_layout import to_device_layout
from .eager_attention import attend
from .forward_batch import ForwardBatch, SequenceRun, Step
from .program_size import layers_per_program
from .static_dispatchers import static_dispatchers

__all__ = ["StaticMode", "kv_length_bucket", "step_length"]

MIN_KV_LENGTH = 256  # slots; a program for fewer would save nothing


class StaticMode:
    """Static-shape execution: rectangles of tokens, buckets of KV length and of capacity.

    All ranks run one program, so sizes follow from the sequences of all of them.
    `execution_mode.ExecutionMode` says what each method is for.
    """

    pads_steps = True
    attend = staticmethod(attend)
    expert_fn = staticmethod(capacity_experts)
    norm = staticmethod(rmsnorm)
    rotate = staticmethod(rope_partial)
    router = staticmethod(moe_router)
    dispatchers = staticmethod(static_dispatchers)
    layers_per_program = staticmethod(layers_per_program)

    def build_group(self, world: HostGroup, ranks_of: Callable[[int], range]) -> Group:
        """Return the groups of all ranks as one `DeviceGroup`: every rank runs the same program."""
        groups = sorted({tuple(ranks_of(rank)) for rank in range(world.size)})
        return DeviceGroup(tuple(groups)) if len(groups[0]) > 1 else ALONE

    def build_overflow_group(self, world: HostGroup) -> Group:
        """Return the group of all ranks: all of them compute an overflow again."""
        return self.build_group(world, lambda _: range(world.size))

    def split_tokens(self, x_N: Any, rank_1: Any, ranks: int, *, padding: int) -> Any:
        """Return this rank's part of the tokens; the last parts are padded to the same length."""
        if ranks == 1:
            return x_N
        N, part = x_N.shape[0], -(-x_N.shape[0] // ranks)
        if part * ranks > N:
            filler = ops.full(x_N, (part * ranks - N, *x_N.shape[1:]), padding, x_N.dtype)
            x_N = np.concatenate([x_N, filler], axis=0)
        index_n = ops.arange(x_N, part)
        return np.take(x_N, rank_1 * np.int32(part) + index_n, axis=0)

    def sequences(self, rank_rows: tuple[slice, ...], rank: int) -> int:
        """Return the most sequences of any rank: all ranks' arrays have one shape."""
        return max(1, *(rows.stop - rows.start for rows in rank_rows))

    def batches(self, step: Step, cache: HybridCache, max_step: int) -> Iterator[ForwardBatch]:
        """Yield passes of equally many tokens of every row, `max_step` in a rank's rectangle."""
        rows = self.sequences(cache.rank_rows, cache.rank)
        chunk = min(max(1, max_step // rows), cache.max_length)
        for start in range(0, int(np.max(step.count_B)), chunk):
            count_B = np.clip(step.count_B - start, 0, chunk)
            tokens = step_length(int(np.max(count_B)), chunk)
            yield _batch(step, np.minimum(start, step.count_B), count_B, cache, (rows, tokens))

    def select_rows(
        self, batch: ForwardBatch, index_Bn: np.ndarray, is_in_pass_Bn: np.ndarray, rows: slice
    ) -> tuple[np.ndarray, Any]:
        """Return a token of every row for each column that any rank wants."""
        column_n = np.any(is_in_pass_Bn, axis=0)
        is_wanted_bn = is_in_pass_Bn[rows][:, column_n]
        row_bn = np.repeat(batch.first_token_b[:, None], np.count_nonzero(column_n), axis=1)
        row_bn[: len(is_wanted_bn)] += np.where(is_wanted_bn, index_Bn[rows][:, column_n], 0)
        return row_bn.reshape(-1).astype(np.int32), np.nonzero(is_wanted_bn.reshape(-1))[0]

    def process_weights(self, weights: ModelWeights, compute: str) -> ModelWeights:
        """Return the weights as programs take them."""
        return to_device_layout(weights)

    def cache_length(self, length: int, limit: int) -> int:
        """Return `length` in a bucket: every length of a cache has programs of its own."""
        return kv_length_bucket(length, limit)

    def kv_length(self, kv_length: int, slots: int) -> int:
        """Return `kv_length` in a bucket: every length is a program, so there are few of them."""
        return kv_length_bucket(min(kv_length, slots), slots)


def _batch(
    step: Step,
    first_B: np.ndarray,
    count_B: np.ndarray,
    cache: HybridCache,
    shape: tuple[int, int],
) -> ForwardBatch:
    """Return this rank's rows in a pass as a rectangle of `shape`, padded."""
    (rows, T), local, start_B = shape, cache.local_rows, step.start_B + first_B
    token_bT = np.zeros(shape, step.token_BT.dtype)
    start_b, count_b = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    start_b[: local.stop - local.start] = start_B[local]
    count_b[: local.stop - local.start] = count_B[local]
    for row, (first, count) in enumerate(zip(first_B[local], count_B[local], strict=True)):
        tokens = step.token_BT[local.start + row, first : first + count]
        # Padding is masked, but 0 x NaN is NaN: it has an embedding that the row has anyway.
        token_bT[row] = np.pad(tokens, (0, T - count), mode="edge") if count else 0
    index_T = np.arange(T)
    position_bT = np.where(index_T < count_b[:, None], start_b[:, None] + index_T, -1)
    row_b = np.minimum(cache.first_row + np.arange(rows), cache.sequences - 1)
    run = SequenceRun(
        0,  # were it the view's, each view would be a program
        rows,
        T,
        row_B=None if rows == cache.sequences else row_b.astype(np.int32),
        kv_length=int(np.max(np.where(count_B > 0, start_B, 0))),
    )
    return ForwardBatch(
        first_B,
        start_B,
        count_B,
        token_N=token_bT.reshape(-1),
        position_N=position_bT.reshape(-1).astype(np.int32),
        row_N=np.repeat(row_b, T),
        end_N=np.repeat(start_b + count_b, T),
        first_token_b=np.arange(rows) * T,
        runs=(run,),
        longest=rows * T,
    )


def step_length(tokens: int, max_step: int) -> int:
    """Return the static length of a step: one token, one with its drafts, or whole chunks."""
    lengths = [length for length in (1, 1 + MAX_DRAFT_TOKENS) if tokens <= length <= max_step]
    return lengths[0] if lengths else -(-tokens // max_step) * max_step


def kv_length_bucket(kv_length: int, slots: int) -> int:
    """Return `kv_length` rounded up to a power of two from 256 on, at most `slots`."""
    return min(slots, max(MIN_KV_LENGTH, 1 << (kv_length - 1).bit_length()))
