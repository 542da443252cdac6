"""Attention metadata of a flat batch, for tests that call a layer by itself."""

from collections.abc import Sequence

import numpy as np

from mimo_v2_flash.config import AttentionSpec
from mimo_v2_flash.kernels.rope_partial import rope_table
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.kv_slots import slot_mapping
from mimo_v2_flash.layers.execution_mode import EXECUTION_MODES
from mimo_v2_flash.layers.forward_batch import AttentionMetadata, ForwardBatch, Step


def batch_of(
    starts: Sequence[int], counts: Sequence[int], cache: HybridCache, *, mode="eager", max_step=1024
) -> ForwardBatch:
    """Return the batch of one pass: row b has counts[b] tokens from position starts[b] on."""
    token_BT = np.arange(len(counts) * max(1, *counts), dtype=np.int32).reshape(len(counts), -1)
    step = Step(token_BT, np.array(starts), np.array(counts), np.zeros((len(counts), 1), int))
    (batch,) = EXECUTION_MODES[mode].batches(step, cache, max_step)
    return batch


def metadata_of(
    spec: AttentionSpec,
    starts: Sequence[int],
    counts: Sequence[int],
    cache: HybridCache,
    *,
    layer: int = 0,
    **options,
) -> AttentionMetadata:
    """Return the metadata for `layer` of `cache`; options are those of `batch_of`."""
    batch = batch_of(starts, counts, cache, **options)
    mode, slots = EXECUTION_MODES[options.get("mode", "eager")], cache.slots[layer]
    slot_mapping_N = slot_mapping(
        batch.position_N, batch.row_N, batch.end_N, slots=slots, trash=cache.sequences * slots
    )
    table = rope_table(length=cache.max_length, rotary_dim=spec.rotary_dim, theta=spec.rope_theta)
    runs = (run._replace(kv_length=mode.kv_length(run.kv_length, slots)) for run in batch.runs)
    return AttentionMetadata(batch.position_N, slot_mapping_N, *table, slots, tuple(runs))
