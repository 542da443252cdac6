"""Run the model at its true widths with random weights, and report its speed and memory.

Tokens are random too. The mode measures, and checks that decoding with the KV cache gives the same
logits as one prefill of all tokens.
"""

import argparse
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.param_specs import all_params
from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kv_cache import HybridCache
from mimo_v2_flash.layers.dispatch_stats import DispatchStatsBackend
from mimo_v2_flash.model import MiMoV2FlashModel

from .console import amount, console, peak_memory, progress, table
from .dispatch_report import dispatch_report
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .truncate import truncate_layers

__all__ = ["add_arguments", "run"]

ALLOWED = 1e-4  # relative to the range of the logits


class Trial(NamedTuple):
    """A prompt and its greedy continuation: tokens, logits of the new ones, cache, and seconds."""

    tokens: list[int]
    logits: np.ndarray
    cache: HybridCache
    prefill_seconds: float
    decode_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    add_parallel_arguments(parser)
    parser.add_argument(
        "--num-experts", type=int, default=8, help="Number of experts per MoE layer (default: 8)."
    )
    parser.add_argument(
        "--num-layers",
        type=int,
        default=2,
        help="Number of layers, the first of the model's 48 (default: 2).",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Seed of the random weights and the random prompt (default: 0).",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=int,
        default=32,
        help="Length of the prompt, in tokens (default: 32).",
    )
    parser.add_argument(
        "--new-tokens", type=int, default=16, help="Number of tokens to decode (default: 16)."
    )


def run(
    num_experts: int,
    num_layers: int,
    seed: int,
    prompt_tokens: int,
    new_tokens: int,
    setup: RankSetup = SINGLE_RANK,
) -> int:
    """Build the model, run it, print the report, and return the exit status."""
    if prompt_tokens < 1 or new_tokens < 1:
        raise ValueError(
            f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens} must be at least 1"
        )
    config = _config(num_experts, num_layers)
    parameters = sum(int(np.prod(weight.shape)) for weight in all_params(config))
    with progress("random weights", total=parameters, unit="numbers") as advance:
        weights = random_weights(config, seed=seed, made=advance, shard_spec=setup.shard_spec)
    stats_backend = DispatchStatsBackend()
    model = MiMoV2FlashModel(weights, config, backend=stats_backend, **setup._asdict())
    prompt = np.random.default_rng(seed).integers(0, config.vocab_size, prompt_tokens).tolist()
    trial = _decode(model, prompt, new_tokens)
    with progress("one prefill of all tokens", total=None) as _:
        whole = model.forward([trial.tokens[:-1]])[0]
    difference = np.max(np.abs(whole[prompt_tokens - 1 :] - trial.logits)) / np.ptp(whole)
    rank = " of rank 0" if setup.group.size > 1 else ""
    report = table("MiMo-V2-Flash with random weights", ("what",), ("amount",))
    for row in (
        ("layers, experts", f"{num_layers}, {num_experts}"),
        ("parameters", f"{parameters / 1e9:.2f} billion"),
        (f"weights{rank}", amount(nbytes(weights))),
        (f"KV cache{rank}", amount(trial.cache.nbytes)),
        ("prefill", f"{prompt_tokens / trial.prefill_seconds:.1f} tokens/s"),
        ("decode", f"{(new_tokens - 1) / trial.decode_seconds:.2f} tokens/s"),
        (f"peak memory{rank}", amount(peak_memory())),
        ("decode against one prefill", f"{difference:.1e} of the range, allowed {ALLOWED:.0e}"),
    ):
        report.add_row(*row)
    console().print(report)
    if dispatch := dispatch_report(stats_backend, setup.group):
        console().print(dispatch)
    return 0 if difference <= ALLOWED else 1


def _config(num_experts: int, num_layers: int) -> MiMoConfig:
    whole = MiMoConfig()
    if not 1 <= num_experts <= whole.n_routed_experts:
        raise ValueError(f"--num-experts {num_experts} is not in 1..{whole.n_routed_experts}")
    return replace(
        truncate_layers(whole, num_layers),
        n_routed_experts=num_experts,
        num_experts_per_tok=min(whole.num_experts_per_tok, num_experts),
    )


def _decode(model: MiMoV2FlashModel, prompt: list[int], new_tokens: int) -> Trial:
    """Return the greedy continuation of a prompt, with the logits of each of its tokens."""
    cache = model.new_cache(1, len(prompt) + new_tokens)
    tokens, rows, start = list(prompt), [], time.perf_counter()
    unseen, prefill_end = prompt, start
    with progress("tokens", total=new_tokens, unit="tokens") as advance:
        for index in range(new_tokens):
            position_T = np.arange(len(tokens) - len(unseen), len(tokens))
            logits = model.step([unseen], [position_T], cache, logits_at=[[len(unseen) - 1]])
            rows.append(logits[0, 0])
            unseen = [int(np.argmax(rows[-1]))]
            tokens += unseen
            prefill_end = prefill_end if index else time.perf_counter()
            advance(1)
    decode_seconds = max(time.perf_counter() - prefill_end, 1e-9)
    return Trial(tokens, np.stack(rows), cache, prefill_end - start, decode_seconds)
