"""A step of 48 layers with drafts, composed of layers, heads and LM head timed at true widths.

One model has each kind of layer of MiMo-V2-Flash once, with 64 experts: more than any cache of a
CPU holds. Which experts a step's tokens choose is drawn, so that as many are new with each token as
a routing says: none of MiMo-V2-Flash is published. Times are those of programs, in turn for one to
four tokens; what an engine does between them is not in the sum.

Sources: mimo-tiny's consecutive tokens choose 4, 6.6, 8.5 and 10 of its 16 experts; a reuse of 0.30
is what models of many experts report (OLMoE, Cohere) less chance.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel
from mimo_v2_flash.checkpoint.params import DecoderWeights, ModelWeights, nbytes
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.cpu.blas_threads import single_threaded_blas
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.layers.decoder import DecoderLayer
from mimo_v2_flash.layers.feed_forward import MixtureOfExperts
from mimo_v2_flash.layers.forward_batch import Step

from .clock import seconds

__all__ = ["composed"]

EXPERTS, CHOSEN, CONTEXT, HEADS = 64, 8, 512, 3
ROUTINGS = {  # experts that a step's first, second, ... token chooses and none before it did
    "as mimo-tiny": (8, 5.22, 3.86, 2.94),
    "reuse 0.30": (8, 5.6, 4.54, 3.92),
    "independent": (8, 7.75, 7.51, 7.27),
}
ACCEPTED = 0.765  # of drafts whose predecessors hold: 2.8 tokens a step with three
KINDS = {"full, dense": 1, "full, experts": 8, "sliding, experts": 39}  # layers of MiMo-V2-Flash


class TimedBackend(NumpyBackend):
    """A backend that times its programs, and draws which experts a step chooses.

    Attributes
    ----------
    times
        Seconds of each call, by program and number of tokens.
    new
        How many experts each token of a step chooses that none before it did, on average.
    """

    def __init__(self) -> None:
        self.times: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.new: tuple[float, ...] = ()
        self._random = np.random.default_rng(0)

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return a function that is timed by its name."""
        name = type(function).__name__
        if isinstance(function, DecoderLayer):
            block = function.feed_forward_block
            is_full = function.attention_block.attention.spec.window >= NO_WINDOW
            name = f"{'full' if is_full else 'sliding'}, dense"
            if isinstance(block.feed_forward, MixtureOfExperts):
                name = name.replace("dense", "experts")
                experts = replace(block.feed_forward, router=self._router(block.feed_forward))
                function = replace(
                    function, feed_forward_block=replace(block, feed_forward=experts)
                )

        def timed(x_N: Any, *args: Any, **options: Any) -> Any:
            outputs: list[Any] = []
            rows = len(args[0]) if name == "GreedyHead" else len(x_N)
            took = seconds(lambda: outputs.append(function(x_N, *args, **options)))
            self.times[name, rows].append(took)
            return outputs[0]

        return timed

    def _router(self, experts: MixtureOfExperts) -> Callable[..., Any]:
        """Return a router that costs as much as the model's, and chooses as `new` says."""

        def route(x_ND: Any, *args: Any, **options: Any) -> Any:
            weight_NA, expert_NA = experts.router(x_ND, *args, **options)
            few = len(x_ND) <= len(self.new)
            return weight_NA, self._chosen()[: len(x_ND)] if few else expert_NA

        return route

    def _chosen(self) -> np.ndarray:
        """Return which experts consecutive tokens choose, `expert_NA`."""
        order_E, seen, rows = self._random.permutation(EXPERTS), 0, []
        for mean in self.new:
            new = int(mean + self._random.random())
            known = self._random.permutation(order_E[:seen])[: CHOSEN - new]
            rows.append([*order_E[seen : seen + new], *known])
            seen += new
        return np.array(rows, np.int32)


def composed(*, quick: bool = False, rounds: int = 9) -> dict[str, Any]:
    """Return how many times as fast a step with drafts is, by routing and number of drafts."""
    backend, weights, config = TimedBackend(), *_weights(quick=quick)
    model = MiMoV2FlashModel(weights, config, backend=backend)
    cache = model.new_cache(1, CONTEXT + 16, mtp_heads=HEADS)
    random = np.random.default_rng(0)
    token_BT = random.integers(0, config.vocab_size, (1, CONTEXT + 16), np.int32)
    model.greedy(token_BT[:, :CONTEXT], _positions(0, CONTEXT), cache, at=[[CONTEXT - 1]])
    reading = [round(_tokens(HEADS)) + head for head in range(HEADS)]
    figures: dict[str, Any] = {}
    for name, new in ROUTINGS.items():
        backend.new = new
        for round_ in range(rounds + 1):
            if round_ == 1:  # the first warms up
                backend.times.clear()
            for tokens in range(1, 2 + HEADS):
                part = token_BT[:, CONTEXT : CONTEXT + tokens]
                model.greedy(part, _positions(CONTEXT, tokens), cache)
            for tokens in reading:
                _draft(model, token_BT, CONTEXT + 2, tokens, cache)
        times = {key: median(values) for key, values in backend.times.items()}
        figures[name] = _figures(times, new, weights, reading)
    return figures


def _weights(*, quick: bool) -> tuple[ModelWeights, MiMoConfig]:
    """Return a model of each kind of layer; layers share experts, and heads their weights."""
    narrow = {"hidden_size": 512, "intermediate_size": 2048, "moe_intermediate_size": 256}
    config = MiMoConfig(
        vocab_size=4096,
        eos_token_id=4095,
        num_hidden_layers=2,
        hybrid_layer_pattern=(0, 1),
        moe_layer_freq=(0, 1),
        n_routed_experts=EXPERTS,
        **(narrow if quick else {}),
    )
    weights = random_weights(config, seed=0, mtp_heads=1)
    (first, sliding), vocabulary = weights.layers, config.vocab_size if quick else 152_576
    full = DecoderWeights(
        first.attention_norm_D,
        first.attention,
        sliding.feed_forward_norm_D,
        sliding.feed_forward,
    )
    table_VD = np.resize(weights.w_logits_VD, (vocabulary, config.hidden_size))
    weights = weights._replace(
        layers=(first, full, sliding),
        mtp=weights.mtp * HEADS,
        embedding_VD=table_VD,
        w_logits_VD=table_VD,
    )
    layers = {"hybrid_layer_pattern": (0, 0, 1), "moe_layer_freq": (0, 1, 1)}
    return weights, replace(config, vocab_size=vocabulary, num_hidden_layers=3, **layers)


def _positions(start: int, tokens: int) -> np.ndarray:
    return np.arange(start, start + tokens)[None]


@single_threaded_blas
def _draft(
    model: MiMoV2FlashModel, token_BT: np.ndarray, end: int, tokens: int, cache: Any
) -> None:
    """Let a head read the last `tokens` before `end`, and draft."""
    start = np.array([end - tokens])
    step = Step(
        token_BT[:, end - tokens : end], start, np.array([tokens]), np.array([[tokens - 1]])
    )
    model.runner.draft(0, model.runner.greedy_tokens, step, cache)


def _tokens(drafts: int) -> float:
    """Return the tokens of a step with so many drafts."""
    return sum(ACCEPTED**draft for draft in range(drafts + 1))


def _figures(
    times: dict[tuple[str, int], float],
    new: tuple[float, ...],
    weights: ModelWeights,
    reading: list[int],
) -> dict[str, Any]:
    """Return seconds and bytes of a step by drafts, and how many times as fast it is."""
    dense, moe, _ = weights.layers
    expert = nbytes(moe.feed_forward.experts[0])
    head, table = nbytes(weights.mtp[0]), nbytes(weights.w_logits_VD)
    rest = nbytes(dense) + 47 * (nbytes(moe.attention) + nbytes(moe.feed_forward.w_router_ED))
    figures: dict[str, Any] = {}
    for drafts in range(1 + HEADS):
        tokens = 1 + drafts
        trunk = sum(count * times[kind, tokens] for kind, count in KINDS.items())
        drafting = sum(times["MTPHead", read] for read in reading[:drafts])
        drafting += drafts * times["GreedyHead", 1]
        distinct = sum(new[:tokens])
        figures[f"drafts {drafts}"] = {
            "seconds": trunk + times["GreedyHead", tokens] + drafting,
            "drafting_seconds": drafting,
            "bytes": round(rest + 47 * distinct * expert + table + drafts * (head + table)),
            "drafting_bytes": drafts * (head + table),
            "experts": round(distinct, 1),
            "tokens": round(_tokens(drafts), 3),
        }
    plain = figures["drafts 0"]["seconds"]
    for each in figures.values():
        each["speed"] = round(each["tokens"] * plain / each["seconds"], 3)
    return figures
