"""The model: embed, pass through the layers, predict. One step for every phase."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import inputs
from .config import MiMoConfig
from .execution import Backend, NumpyBackend
from .generation.loop import collect_tokens, generate
from .generation.sampling import SamplingParams
from .generation.token_selector import make_token_selector
from .kv_cache import HybridCache
from .layers.execution_mode import EXECUTION_MODES
from .layers.network import Network
from .layers.parallel_context import ParallelContext
from .parallel import ALONE, HostGroup
from .parallel_config import ParallelConfig
from .weights.params import ModelWeights, fingerprint
from .weights.shard_weights import shard_weights
from .weights.subset import check_model, keep_experts

__all__ = ["MiMoV2FlashModel"]


class MiMoV2FlashModel:
    """MiMo-V2-Flash. It holds nothing of a request: one model serves many caches.

    Ranks that share it make and call it with the same arguments and get the same answers.

    Parameters
    ----------
    weights : ModelWeights
        From `load_weights`: the whole model's, of which a rank keeps its share, or its share.
    config : MiMoConfig
        The architecture.
    expert_subset : sequence of int, optional
        Ids of the only experts to use, the checkpoint's: the model that the cut routers make.
    max_step : int
        Tokens per row that pass through the layers together; a longer step runs as several.
    backend : Backend, optional
        Where layers run; NumPy if not given.
    group : HostGroup, optional
        The ranks that share the model, this one among them; one alone if not given.
    plan : Plan, optional
        What they split; experts and rows over `config.num_devices` if not given.
    exchange : str, optional
        How tokens reach experts, "all_to_all" or "all_gather"; by each step's size if not given.
    dtype : dtype
        Of what flows between layers and ranks, float32 or bfloat16; sums are float32.

    Raises
    ------
    ValueError
        If weights, config, subset, plan and group do not belong together, or ranks disagree.
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
    ) -> None:
        check_model(weights, config)
        backend, plan = backend or NumpyBackend(), plan or ParallelConfig.from_num_devices(config)
        context = ParallelContext(
            plan, group or ALONE, exchange, EXECUTION_MODES[backend.execution_mode]
        )
        weights, config = keep_experts(weights, config, expert_subset)
        context.config.check(config)
        max_step, dtype = inputs.as_count("max_step", max_step), inputs.as_float("dtype", dtype)
        context.check_consistent(
            config=config, weights=fingerprint(weights), max_step=max_step, dtype=dtype
        )
        self.weights = backend.to_device(
            context.mode.weights(shard_weights(weights, config, context.shard_spec))
        )
        self.config, self.max_step, self._context = config, max_step, context
        self._network = Network(config, backend, context, dtype)

    def new_cache(self, batch_size: int, max_length: int, dtype: Any = np.float32) -> HybridCache:
        """Return an empty cache, float32 or bfloat16, for sequences of up to `max_length` tokens.

        A rank's has its rows and heads alone. ValueError: a size or the dtype is not allowed.
        """
        most = self.config.max_position_embeddings
        length = inputs.as_count("max_length", max_length, least=0, most=most)
        return self._network.new_cache(batch_size, length, dtype)

    def forward(self, input_ids: Any) -> np.ndarray:
        """Return the logits of whole sequences.

        `input_ids`, int [B, T], gives float32 [B, T, vocab], and the errors of `step`.
        """
        token_BT = inputs.as_tokens(input_ids, self.config.vocab_size)
        B, T = token_BT.shape
        position_BT = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
        return self.step(token_BT, position_BT, self.new_cache(B, T))

    def step(
        self, token_BT: Any, position_BT: Any, cache: HybridCache, *, logits_at: Any = None
    ) -> np.ndarray:
        """Return the logits of a step's tokens, and write the tokens into `cache`.

        Parameters
        ----------
        token_BT : array of int, [B, T]
            Token ids; any id where there is padding.
        position_BT : array of int, [B, T]
            Each token's position in its sequence. In a row, real tokens come first, at consecutive
            positions from at most the number of tokens that the cache holds, then padding at -1.
        cache : HybridCache
            From `new_cache`. A row that starts earlier than it ended takes tokens back.
        logits_at : array of int, [B, n], optional
            Indices into T of the tokens whose logits are wanted; all T if not given.

        Returns
        -------
        ndarray of float32, [B, n, vocab]
            Logits of the token after each; those of padding mean nothing.

        Raises
        ------
        ValueError
            If tokens, positions, batch and cache do not fit, or ranks disagree: before any change.
        """
        asked = self._asked(token_BT, position_BT, cache, logits_at)
        return self._network.logits(*asked)[: len(token_BT)]

    def greedy(
        self, token_BT: Any, position_BT: Any, cache: HybridCache, *, at: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (token_Bn, logit_Bn) of a `step`, chosen where programs run; `at` is `logits_at`.

        Each is the lowest id of the largest logit, int32, and that logit, float32.
        """
        found = self._network.greedy(*self._asked(token_BT, position_BT, cache, at))
        return found[0][: len(token_BT)], found[1][: len(token_BT)]

    def _asked(self, token_BT: Any, position_BT: Any, cache: HybridCache, at: Any) -> Any:
        token_BT = inputs.as_tokens(token_BT, self.config.vocab_size)
        position_BT = inputs.as_positions(position_BT, token_BT.shape)
        index_Bn, pad = inputs.as_indices(at, token_BT.shape), self._context.pad_batch
        token_BT, position_BT = pad(token_BT, 0), pad(position_BT, -1)
        cache.check_layers(self._network.layers)
        cache.check_positions(position_BT)
        self._context.check_consistent(
            token_BT=token_BT, position_BT=position_BT, logits_at=index_Bn
        )
        return pad(index_Bn, 0), token_BT, position_BT, cache, self.weights, self.max_step

    def generate(
        self,
        input_ids: Any,
        *,
        max_new_tokens: int = 64,
        eos_token_id: int | Sequence[int] | None = None,
        seed: int = 0,
        on_token: Callable[[int, int], None] | None = None,
        cache_dtype: Any = np.float32,
        **sampling: Any,
    ) -> list[list[int]]:
        """Return the tokens that follow each prompt.

        Parameters
        ----------
        input_ids : array of int, [B, T], or sequence of sequences of int
            Prompts, of any lengths, none empty.
        max_new_tokens : int
            Tokens to generate at most, per prompt.
        eos_token_id : int or sequence of int, optional
            Tokens that end a row; the config's if not given, an empty sequence for none.
        seed : int
            Of the random streams, one per row: a row's tokens do not depend on the other rows.
        on_token : callable, optional
            Called with (row, token) as each token is drawn.
        cache_dtype : dtype
            Of the KV cache, float32 or bfloat16.
        **sampling
            `temperature` (0, the default, is greedy), `top_k`, `top_p`, `min_p` and
            `repetition_penalty`: see `SamplingParams`.

        Returns
        -------
        list of list of int
            New tokens of each row, the end token included.

        Raises
        ------
        ValueError
            If a prompt is empty or too long, or an id or a setting is not allowed.
        """
        prompts = inputs.as_prompts(input_ids, self.config.vocab_size)
        end = self.config.eos_token_id if eos_token_id is None else eos_token_id
        settings = SamplingParams(**sampling)
        limit = inputs.as_count("max_new_tokens", max_new_tokens, least=0)
        longest = max(map(len, prompts)) + max(limit - 1, 0)  # the last is not shown
        select = make_token_selector(
            self, self.new_cache(len(prompts), longest, cache_dtype), settings, seed
        )
        drawn = generate(select, prompts, limit, inputs.end_tokens(end))
        return collect_tokens(drawn, len(prompts), on_token)
