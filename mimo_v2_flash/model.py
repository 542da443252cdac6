"""MiMo-V2-Flash as one model object: `step` is prefill, chunked prefill and decode."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from . import inputs
from .checkpoint.params import ModelWeights
from .checkpoint.subset import check_model, keep_experts, shard_weights
from .config import MiMoConfig
from .cpu.blas_threads import single_threaded_blas
from .engine.generate import GeneratedTokens, generate
from .engine.sampling_params import SamplingParams
from .execution import Backend, NumpyBackend
from .generation.generation_config import GenerationConfig
from .kv_cache import HybridCache
from .kv_slots import MAX_DRAFT_TOKENS
from .layers.execution_mode import EXECUTION_MODES
from .layers.forward_batch import Step
from .layers.head import as_greedy
from .layers.parallel_context import ParallelContext
from .model_runner import ModelRunner
from .parallel import ALONE, HostGroup
from .parallel_config import ParallelConfig

__all__ = ["MiMoV2FlashModel"]


class MiMoV2FlashModel:
    """The MiMo-V2-Flash causal language model, on one device or as one rank of several.

    The state of a request is in its `HybridCache` alone: one model serves many caches. All ranks
    of a group construct and call the model with the same arguments and get the same results.

    Parameters
    ----------
    weights : ModelWeights
        Weights from `load_weights`: the whole model's, or a shard prepared for this rank.
    config : MiMoConfig
        The architecture.
    expert_subset : sequence of int, optional
        Ids of the experts that are kept and that routers choose among; all if not given.
    max_step : int
        The most tokens of a pass, of all rows of a rank; a longer step takes several passes.
    backend : Backend, optional
        Backend that runs the layers; NumPy if not given.
    group : HostGroup, optional
        Process group of the ranks that share the model; a single rank if not given.
    plan : ParallelConfig, optional
        How the model is split over the group; by the config's `num_devices` if not given.
    exchange : str, optional
        Dispatcher of tokens, "all_to_all" or "all_gather"; chosen by a step's size if not given.
    dtype : dtype
        Dtype of hidden states, in memory and between ranks: float32 or bfloat16. Sums are float32.
    max_length : int, optional
        The most tokens of a sequence; the config's `max_position_embeddings` if not given. A cache
        for programs has this length, or a power of two if it is not given: they share programs.
    cache_dtype : dtype
        Dtype of the KV caches that `new_cache` makes: float32, bfloat16, if eager "fp8" or "int8".
    compute : str
        What activations are rounded to before products with weights: "float32" or "bfloat16".
    layers_per_program : int, optional
        The most layers of a program, with a backend that compiles; by a program's size if None.
    generation_config : GenerationConfig, optional
        What `generate` does by default; greedy, with the config's end tokens, if not given.

    Attributes
    ----------
    config : MiMoConfig
        The architecture, with the number of experts that are kept.
    max_length, max_step, compute, generation_config
        The parameters of these names.
    runner : ModelRunner
        What runs a step that all ranks agree on already: `step` for an engine's workers.

    Raises
    ------
    ValueError
        If weights, config, experts, plan and group do not fit each other, or ranks disagree.
    """

    def __init__(
        self,
        weights: ModelWeights,
        config: MiMoConfig,
        expert_subset: Sequence[int] | None = None,
        *,
        max_step: int = 512,
        backend: Backend | None = None,
        group: HostGroup | None = None,
        plan: ParallelConfig | None = None,
        exchange: str | None = None,
        dtype: Any = np.float32,
        max_length: int | None = None,
        cache_dtype: Any = np.float32,
        compute: str = "float32",
        layers_per_program: int | None = None,
        generation_config: GenerationConfig | None = None,
    ) -> None:
        check_model(weights, config)
        backend, plan = backend or NumpyBackend(), plan or ParallelConfig.from_num_devices(config)
        self.compute = inputs.as_compute(compute, compiles=backend.execution_mode != "eager")
        mode = EXECUTION_MODES[backend.execution_mode]
        context = ParallelContext(plan, group or ALONE, exchange, mode, layers_per_program)
        weights, config = keep_experts(weights, config, expert_subset)
        context.parallel_config.check(config)
        limit, compiles = config.max_position_embeddings, mode.pads_steps
        length = limit if max_length is None else max_length
        self.max_length = inputs.as_count("max_length", length, maximum=limit)
        max_step, dtype = inputs.as_count("max_step", max_step), inputs.as_float("dtype", dtype)
        self._cache_length = None if backend.execution_mode == "eager" else max_length
        self._cache_dtype = inputs.as_cache_dtype("cache_dtype", cache_dtype, compiles=compiles)
        self.generation_config = generation_config or GenerationConfig.of_config(config)
        self.config, self.max_step, self._context = config, max_step, context
        runs: dict[str, Any] = {"max_step": max_step, "dtype": dtype}
        options = {"cache_dtype": self._cache_dtype, "generation_config": self.generation_config}
        options |= {"max_length": (self.max_length, self._cache_length), "compute": compute}
        context.check_consistent(config=config, **runs, **options)
        context.check_same_weights(shard := shard_weights(weights, config, context.shard_spec))
        self.weights = backend.to_device(mode.process_weights(shard, compute))
        self.runner = ModelRunner(config, self.weights, backend, context, **runs)

    @property
    def group(self) -> HostGroup:
        """The group of all ranks."""
        return self._context.world_group

    @property
    def mtp_heads(self) -> int:
        """How many MTP heads can draft; none if a sliding window is shorter than their step."""
        is_long = self.config.sliding_window > MAX_DRAFT_TOKENS
        return min(len(self.weights.mtp), MAX_DRAFT_TOKENS) * is_long

    @property
    def pads_steps(self) -> bool:
        """Whether all rows of a step cost as much as the longest: in programs of fixed shapes."""
        return self._context.mode.pads_steps

    def new_cache(
        self,
        batch_size: int,
        max_length: int | None = None,
        dtype: Any = None,
        *,
        captures: bool = False,
        mtp_heads: int = 0,
    ) -> HybridCache:
        """Return an empty KV cache; a rank's has its own rows and KV heads.

        Parameters
        ----------
        batch_size, max_length : int
            Sequences on all ranks; the most tokens of one, by default the model's.
        dtype : dtype, optional
            Dtype of keys and values; the model's `cache_dtype` if not given.
        captures, mtp_heads : bool, int
            Whether rings keep all of the last pass, as in static mode; MTP heads that have caches.

        Raises
        ------
        ValueError
            If a size or the dtype is not allowed.
        """
        limit, dtype = self.max_length, self._cache_dtype if dtype is None else dtype
        length = limit if max_length is None else max_length
        length = inputs.as_count("max_length", length, minimum=0, maximum=limit)
        batch_size = inputs.as_count("batch_size", batch_size, maximum=np.iinfo(np.int32).max)
        captured = self.max_step if captures or self.pads_steps else 0
        heads = inputs.as_count("mtp_heads", mtp_heads, minimum=0, maximum=self.mtp_heads)
        length = self._cache_length or self._context.mode.cache_length(length, limit)
        return self.runner.new_cache(batch_size, length, dtype, captured, heads)

    def forward(self, input_ids: Any) -> np.ndarray:
        """Return the logits of every token of whole sequences: `step` with a cache of its own.

        Warning: logits are float32 [B, T, vocab], 2.5 GB for 4,096 tokens of the real model. Where
        a few positions will do, call `step` with `logits_at`.

        Parameters
        ----------
        input_ids : array of int, [B, T]
            Token ids of B sequences of one length.

        Returns
        -------
        ndarray of float32, [B, T, vocab]
            Logits of the token after each.

        Raises
        ------
        ValueError, NonFiniteError
            As `step`.
        """
        token_BT = inputs.as_tokens(input_ids, self.config.vocab_size)
        B, T = token_BT.shape
        position_BT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
        return self.step(token_BT, position_BT, self.new_cache(B, T))

    @single_threaded_blas
    def step(
        self, token_BT: Any, position_BT: Any, cache: HybridCache, *, logits_at: Any = None
    ) -> np.ndarray:
        """Return the logits of a step's tokens, and write the tokens into `cache`.

        Parameters
        ----------
        token_BT : array of int, [B, T]
            Token ids; padding may have any id of the vocabulary.
        position_BT : array of int, [B, T]
            Each token's position in its sequence. In a row, real tokens come first, at consecutive
            positions from at most the number of tokens that the cache holds, then padding at -1.
        cache : HybridCache
            A cache from `new_cache`. A row whose positions start before its end discards the
            tokens from there on: rejected draft tokens, for instance.
        logits_at : array of int, [B, n], optional
            Indices into T of the tokens whose logits are returned, -1 for none; all if not given.

        Returns
        -------
        ndarray of float32, [B, n, vocab]
            Logits of the token after each; those of padding mean nothing.

        Raises
        ------
        ValueError
            If tokens, positions and cache do not fit each other, or ranks disagree. Nothing is
            computed or changed then.
        NonFiniteError
            If rows get NaN or infinity, a ValueError too: it names them and the tensor where the
            first arises, and holds the others' logits. Their tokens are in the cache; bad rows have
            what they had before the step, or nothing if that is bad itself.
        """
        step = self._check_step(token_BT, position_BT, cache, "logits_at", logits_at)
        outputs = self.runner.forward(self.runner.logits, step, cache)
        self.runner.check_finite(outputs, self.runner.logits, step, cache)
        return outputs[0]

    @single_threaded_blas
    def greedy(
        self, token_BT: Any, position_BT: Any, cache: HybridCache, *, at: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Run a `step` and return its greedy tokens instead of all logits.

        The argmax is part of the backend's program.

        Parameters
        ----------
        token_BT, position_BT, cache
            As in `step`.
        at : array of int, [B, n], optional
            As `logits_at` in `step`.

        Returns
        -------
        token_Bn : ndarray of int32
            Id of the largest logit after each token; the lowest such id where several are equal.
        logit_Bn : ndarray of float32
            That logit.

        Raises
        ------
        ValueError, NonFiniteError
            As `step`.
        """
        step = self._check_step(token_BT, position_BT, cache, "at", at)
        output = self.runner.greedy_tokens
        outputs = as_greedy(self.runner.forward(output, step, cache))
        self.runner.check_finite(outputs, output, step, cache)
        return outputs

    def _check_step(
        self, token_BT: Any, position_BT: Any, cache: HybridCache, name: str, index_Bn: Any
    ) -> Step:
        """Return a step, checked on all ranks; `name` is what the caller calls `index_Bn`."""
        token_BT = inputs.as_tokens(token_BT, self.config.vocab_size)
        position_BT = inputs.as_positions(position_BT, token_BT.shape)
        index_Bn = inputs.as_indices(name, index_Bn, token_BT.shape)
        self._context.check_consistent(
            token_BT=token_BT, position_BT=position_BT, **{name: index_Bn}, cache=cache.state
        )  # before what one rank alone might refuse
        cache.check_layers(self.runner.cache_layers(self.runner.mtp.heads(cache)))
        start_B, count_B = cache.check_positions(position_BT)
        return Step(token_BT, start_B, count_B, index_Bn)

    def generate(
        self,
        input_ids: Any,
        *,
        max_new_tokens: int = 64,
        eos_token_id: int | Collection[int] | None = None,
        seed: int | None = None,
        on_token: Callable[[int, int], None] | None = None,
        cache_dtype: Any = None,
        draft_tokens: int | str = 0,
        generation_config: GenerationConfig | None = None,
        **sampling: Any,
    ) -> GeneratedTokens:
        """Return the generated tokens of each prompt.

        Parameters
        ----------
        input_ids : array of int, [B, T], or sequence of sequences of int
            Token ids of the prompts, of any lengths, none empty.
        max_new_tokens : int
            The most tokens to generate, per prompt.
        eos_token_id : int or sequence of int, optional
            Token ids that end a row; those of `generation_config` if not given, an empty sequence
            for none.
        seed : int, optional
            Key of the random numbers, with the row's number: a row's tokens do not depend on other
            rows. A fresh one if not given, the same on all ranks; the result has it.
        on_token : callable, optional
            Callback for each token as it is sampled: `on_token(row, token)`.
        cache_dtype : dtype, optional
            Dtype of the KV cache, as for the model; the model's if not given.
        draft_tokens : int or "auto"
            How many tokens MTP heads draft for each step: as of `Engine`. Tokens stay the same.
        generation_config : GenerationConfig, optional
            End tokens and sampling parameters; the model's if not given.
        **sampling
            `temperature` (0 is greedy), `top_k`, `top_p`, `min_p`, `repetition_penalty`,
            `presence_penalty` and `frequency_penalty`: see `SamplingParams`. Those of
            `generation_config` if not given.

        Returns
        -------
        GeneratedTokens, a list of list of int
            New token ids of each row, the end token included; `seed` is the one that was used.

        Raises
        ------
        ValueError
            If a prompt is empty or too long, or a token id or a setting is unknown or not allowed.
        NonFiniteError
            If prompts get NaN or infinity, as `step`; generation ends for all of them.
        """
        size = self.config.vocab_size
        prompts = inputs.as_prompts(input_ids, size)
        settings = (generation_config or self.generation_config).with_sampling(sampling)
        ends = settings.eos_token_ids if eos_token_id is None else eos_token_id
        ends = inputs.as_token_ids("eos_token_id", ends, size)
        limit = inputs.as_new_tokens(max_new_tokens, prompts, self.max_length)
        ending: dict[str, Any] = {"stop_token_ids": sorted(ends), "ignore_eos": True, "seed": seed}
        params = SamplingParams(**settings.sampling(), **ending, max_tokens=limit)
        dtype = self._cache_dtype if cache_dtype is None else cache_dtype
        dtype = inputs.as_cache_dtype("cache_dtype", dtype, compiles=self.pads_steps)
        options: dict[str, Any] = {"cache_dtype": dtype, "draft_tokens": draft_tokens}
        options |= {"suppress_tokens": settings.suppress_tokens, "on_token": on_token}
        return generate(self, prompts, params, **options)
