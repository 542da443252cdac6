"""Model runner: embedding, decoder layers and head, on one rank's part of the model."""

from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from .checkpoint.params import ModelWeights
from .config import AttentionSpec, LayerSpec, MiMoConfig
from .execution import Backend, MissingProgramError
from .inputs import as_cache_dtype
from .kernels.kv_cache import put_tokens, take_tokens
from .kernels.rope_partial import rope_table
from .kv_cache import HybridCache, new_cache
from .kv_slots import MAX_DRAFT_TOKENS, slot_mapping
from .kv_transfer import TRANSFER_ROWS, KVTransfer
from .layers.decoder_stack import DecoderStack, StackInputs
from .layers.embedding import embed
from .layers.forward_batch import AttentionMetadata, ForwardBatch, Step
from .layers.head import GreedyTokens, HeadOutput, Logits
from .layers.nonfinite import (
    NonFiniteCause,
    NonFiniteError,
    NonFiniteFinder,
    bad_rows,
    has_nonfinite,
)
from .layers.parallel_context import ParallelContext
from .layers.step_outputs import StepOutputs
from .mtp_runner import MTPRunner, mtp_cache_layers

__all__ = ["ModelRunner"]

READ_BY_HEADS = 2 * (1 + MAX_DRAFT_TOKENS)  # tokens of a sequence in a program of an MTP head
MAX_CAUSES = 4  # rows of a bad step that run again: if all are bad, one cause is likely theirs
_ROPE_LOCK = Lock()  # threads may share a model, which may be pickled


class ModelRunner:
    """Runs embedding, decoder layers and head on one rank's part of the model.

    Parameters
    ----------
    config
        The model's config.
    weights
        This rank's weights, on the backend's device.
    backend
        The backend that compiles and runs the layers; equal layers share their programs.
    context
        The ranks that heads, experts, rows and vocabulary are split over.
    max_step
        The most tokens of a rank that pass through the layers together, all rows counted.
    dtype
        Dtype of the hidden states: float32 or bfloat16.
    layers_per_program
        The most layers of a program; the context's if None.

    Attributes
    ----------
    layers
        The layer specs, with this rank's heads.
    logits, greedy_tokens
        The outputs that `forward` can compute: see `layers.head.as_greedy`.
    mtp
        What runs the MTP heads.
    """

    def __init__(
        self,
        config: MiMoConfig,
        weights: ModelWeights,
        backend: Backend,
        context: ParallelContext,
        *,
        max_step: int,
        dtype: Any = np.float32,
        layers_per_program: int | None = None,
    ) -> None:
        self.layers = tuple(map(context.shard_spec.local_layer, config.layers))
        self.logits = Logits(config, backend, context)
        self.greedy_tokens: HeadOutput = GreedyTokens(config, backend, context)
        if context.parallel_config.tensor_parallel_size > config.vocab_size:
            self.greedy_tokens = self.logits  # a rank without a token has no argmax
        self._config, self._weights, self._backend = config, weights, backend
        self._max_step, self._context = max_step, context
        self._to_device, self._dtype = backend.to_device, np.dtype(dtype).name
        self._embed = backend.compile(embed)
        self._transfer = KVTransfer(
            backend.compile(take_tokens),
            backend.compile(put_tokens),
            TRANSFER_ROWS if context.mode.pads_steps else None,
        )
        most = layers_per_program or context.layers_per_program
        self._stack = DecoderStack(self.layers, backend, context, most, dtype)
        self._rope_tables: dict[tuple[int, float], tuple[Any, Any]] = {}
        self.mtp = MTPRunner(config, weights, backend, context, self._metadata, self._dtype)

    def cache_layers(self, mtp_heads: int = 0) -> tuple[LayerSpec, ...]:
        """Return the layers of a cache, with those of `mtp_heads` MTP heads."""
        return (*self.layers, *mtp_cache_layers(self._config, self._context.shard_spec, mtp_heads))

    def new_cache(
        self,
        batch_size: int,
        max_length: int,
        dtype: Any,
        captured: int = 0,
        mtp_heads: int = 0,
    ) -> HybridCache:
        """Return an empty cache of this rank's rows and heads.

        Parameters
        ----------
        batch_size, max_length : int
            Sequences on all ranks, and the most tokens of one.
        dtype : dtype
            Dtype of keys and values.
        captured, mtp_heads : int
            Tokens of a pass that are kept beside the rings; MTP heads whose caches are added.
        """
        rank_rows, rank = self._context.rank_rows(batch_size), self._context.data_parallel_rank
        cache = new_cache(
            self.cache_layers(mtp_heads),
            batch_size=batch_size,
            max_length=max_length,
            dtype=as_cache_dtype("cache_dtype", dtype, compiles=self._context.mode.pads_steps),
            rank_rows=rank_rows,
            rank=rank,
            sequences=self._context.mode.sequences(rank_rows, rank),
            captured=captured,
        )
        return replace(cache, layers=self._to_device(cache.layers), transfer=self._transfer)

    def forward(
        self, output: HeadOutput, step: Step, cache: HybridCache, *, everywhere: bool = True
    ) -> tuple[np.ndarray, ...]:
        """Return what `output` computes at the wanted tokens; write all tokens into `cache`.

        A step of more than `max_step` tokens runs in several passes. The head sees the wanted
        tokens alone. A row with NaN or infinity anywhere has such numbers in its last output:
        `check_finite` is for them. Every rank gets all outputs, or rank 0 alone unless
        `everywhere`; then the other ranks' are not of use.

        Parameters
        ----------
        output : HeadOutput
            What is computed of the last hidden states: logits, or greedy tokens.
        step : Step
            Tokens at positions, and which outputs are wanted.
        cache : HybridCache
            Keys and values, which the step extends.
        everywhere : bool
            Whether every rank gets the outputs.
        """
        outputs = StepOutputs(output, self._weights, step, cache, self._context)
        for batch in self._context.mode.batches(step, cache, self._max_step):
            cache.begin_step(batch.start_B, batch.count_B)
            with np.errstate(invalid="ignore", over="ignore"):  # it is looked for afterwards
                x_ND = self._run_pass(batch, cache)
            cache.finish_step(batch.count_B)
            # Whatever was NaN or infinite in a layer is still so in the residual stream.
            is_bad_N = has_nonfinite(np.asarray(x_ND)) & (batch.position_N >= 0)
            bad_row_N = batch.row_N[is_bad_N] - cache.first_row
            outputs.is_bad_B[cache.local_rows][bad_row_N] = True
            outputs.fill(batch, x_ND)
        return outputs.on_all_ranks() if everywhere else outputs.on_rank_0()

    def draft(
        self, head: int, output: HeadOutput, step: Step, cache: HybridCache
    ) -> tuple[np.ndarray, ...]:
        """Return what `output` computes of an MTP head at the wanted tokens, on rank 0 alone.

        The main model has read the token before each of the step's, whose positions may be beyond
        those that `cache` counts: the last ones are drafts.

        Parameters
        ----------
        head : int
            Index of the MTP head.
        output, step, cache
            As for `forward`; the cache has keys and values of the heads too.
        """
        return self.draft_outputs(head, output, step, cache).on_rank_0()

    def draft_outputs(
        self, head: int, output: HeadOutput, step: Step, cache: HybridCache
    ) -> StepOutputs:
        """Return this rank's part of what `draft` does; no rank waits for others on the host.

        Parameters
        ----------
        head
            Number of the MTP head.
        output
            Its LM head.
        step
            The tokens and their positions.
        cache
            Keys, values and hidden states.
        """
        weights = self.mtp.head_weights(head)
        outputs = StepOutputs(output, weights, step, cache, self._context)
        mode, max_step = self._context.mode, self._max_step
        if mode.pads_steps:
            max_step = READ_BY_HEADS * mode.sequences(cache.rank_rows, cache.rank)
        for batch in mode.batches(step, cache, max_step):
            with np.errstate(invalid="ignore", over="ignore"):  # what is bad is no draft
                x_ND = self.mtp.draft(head, batch, cache)
            outputs.fill(batch, x_ND)
        return outputs

    def check_finite(
        self,
        outputs: tuple[np.ndarray, ...],
        output: HeadOutput,
        step: Step,
        cache: HybridCache,
    ) -> None:
        """Raise unless all `outputs` that `forward` returned are finite: on all ranks, or on none.

        Parameters
        ----------
        outputs : tuple of array
            What `forward` returned.
        output, step, cache
            As for `forward`; the cache is as the step left it.

        Raises
        ------
        NonFiniteError
            It names the bad rows; `cache` has lost what this step wrote of them.
        """
        if rows := bad_rows(outputs):
            raise self.nonfinite_error(rows, outputs, output, step, cache)

    def nonfinite_error(
        self,
        rows: tuple[int, ...],
        outputs: tuple[np.ndarray, ...],
        output: HeadOutput,
        step: Step,
        cache: HybridCache,
    ) -> NonFiniteError:
        """Return the error of a step's bad `rows`, of which `cache` loses it: a collective call.

        Parameters
        ----------
        rows : tuple of int
            The bad rows.
        outputs : tuple of array
            What `forward` returned.
        output, step, cache
            As for `forward`; the cache is as the step left it.
        """
        is_bad_B = np.isin(np.arange(len(step.count_B)), rows)
        kept_B = np.where(is_bad_B, step.start_B, cache.length_B)
        causes = {}
        cache.discard(kept_B, self._to_device)
        for row in rows[:MAX_CAUSES]:
            causes[row] = self._find_cause(output, step, cache, row)
            cache.discard(kept_B, self._to_device)
        is_lost_b = cache.nonfinite_rows(len(self.layers)).astype(np.int64)
        is_lost_B = is_bad_B & (self._context.world_group.all_reduce(is_lost_b) > 0)
        if np.any(is_lost_B):  # what the row held before was bad already
            cache.discard(np.where(is_lost_B, 0, kept_B), self._to_device)
        for array in outputs:
            array[is_bad_B] = np.nan if array.dtype.kind == "f" else -1
        return NonFiniteError(rows, causes, outputs)

    def _find_cause(
        self, output: HeadOutput, step: Step, cache: HybridCache, row: int
    ) -> NonFiniteCause:
        """Return the first bad tensor of a row, which runs again alone: a collective call."""
        context, experts = self._context, self._config.n_routed_experts
        local = context.shard_spec.expert_range(experts)
        finder = NonFiniteFinder(self._backend, self._weights.expert_ids[local.start : local.stop])
        options: dict[str, Any] = {"max_step": self._max_step, "dtype": self._dtype}
        options["layers_per_program"] = 1  # what is looked at is what programs return
        runner = ModelRunner(self._config, self._weights, finder, context, **options)
        again = runner.logits if output is self.logits else runner.greedy_tokens
        is_row_B = np.arange(len(step.count_B)) == row
        step = step._replace(count_B=np.where(is_row_B, step.count_B, 0))
        with suppress(MissingProgramError, ChildProcessError):  # its shapes are the row's own
            runner.forward(again, step, cache)
        return finder.cause(context.world_group)

    def _run_pass(self, batch: ForwardBatch, cache: HybridCache) -> Any:
        """Return the hidden states after the last layer, of this rank's tokens of a pass."""
        position_N = self._to_device(batch.position_N)
        metadata: dict[AttentionSpec, AttentionMetadata] = {}
        for index, spec in enumerate(self.layers):
            if (kind := spec.attention) not in metadata:
                metadata[kind] = self._metadata(kind, batch, position_N, cache, index)
        inputs = StackInputs(metadata, cache.layers, self._weights.layers)
        x_ND = self._embed(batch.token_N, self._weights.embedding_VD, dtype=self._dtype)
        for run, arguments, options in self._stack.calls(batch, inputs):
            x_ND = run(x_ND, *arguments, **options)
        if self.mtp.heads(cache):
            self.mtp.keep(batch, x_ND, cache, metadata.get(self.mtp.attention))
        return x_ND

    def _metadata(
        self,
        kind: AttentionSpec,
        batch: ForwardBatch,
        position_N: Any,
        cache: HybridCache,
        layer: int,
    ) -> AttentionMetadata:
        """Return the attention metadata of the layers of one kind, `layer` among them."""
        slots, trash = cache.slots[layer], cache.layers[layer].position_Z.shape[0] - 1
        kv_length = self._context.mode.kv_length
        runs = (
            run._replace(
                kv_length=kv_length(run.kv_length, slots), row_B=self._to_device(run.row_B)
            )
            for run in batch.runs
        )
        captures = cache.captured and slots < cache.max_length
        slot_mapping_N = slot_mapping(
            batch.position_N,
            batch.row_N,
            batch.end_N,
            slots=slots,
            trash=trash,
            capture_start=cache.capture_start(layer) if captures else None,
        )
        cos_LR, sin_LR = self._rope_table(cache.max_length, kind)
        return AttentionMetadata(
            position_N, self._to_device(slot_mapping_N), cos_LR, sin_LR, slots, tuple(runs)
        )

    def _rope_table(self, length: int, kind: AttentionSpec) -> tuple[Any, Any]:
        """Return (cos_LR, sin_LR) of at least `length` positions; the longest table is cached."""
        key = (kind.rotary_dim, kind.rope_theta)
        with _ROPE_LOCK:
            table = self._rope_tables.get(key)
            if table is None or table[0].shape[0] < length:
                table = self._rope_tables[key] = self._to_device(
                    rope_table(length=length, rotary_dim=kind.rotary_dim, theta=kind.rope_theta)
                )
            return table
