"""Run the model at its true widths with random weights, and report its speed and memory.

Tokens are random too. The command measures, and checks that decoding with the KV cache gives the
same log-probabilities as one prefill of all tokens.
"""

import argparse
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.checkpoint.param_specs import all_params
from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import DEFAULT_PRESET, HubLayout
from mimo_v2_flash.costs import Workload, devices
from mimo_v2_flash.costs.device_memory import verdict
from mimo_v2_flash.cpu.thread_count import thread_count
from mimo_v2_flash.engine import SamplingParams
from mimo_v2_flash.engine.generate import generate
from mimo_v2_flash.engine.logprobs import token_logprobs
from mimo_v2_flash.engine.memory_size import memory_size
from mimo_v2_flash.engine.outputs import TokenLogprob
from mimo_v2_flash.engine.stats import EngineStats
from mimo_v2_flash.layers.dispatch_stats import DispatchStatsBackend
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.model_loader import DEFAULTS, build_model
from mimo_v2_flash.parallel_config import ParallelConfig

from .console import amount, console, peak_memory, progress, table
from .dispatch_report import dispatch_numbers, dispatch_report
from .engine_report import engine_rows, finite
from .option_types import natural, positive
from .options import add_config_argument, read_model
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .result import Result

__all__ = ["add_arguments", "run"]

ALLOWED = 1e-4  # relative to the range of the logits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_config_argument(parser)
    add_parallel_arguments(parser)
    parser.add_argument(
        "--num-experts",
        type=positive,
        default=8,
        help="Number of experts per MoE layer (default: 8).",
    )
    parser.add_argument(
        "--num-layers",
        type=positive,
        default=2,
        help="Number of layers, the first of the model (default: 2).",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="Seed of the random weights and the random prompt (default: 0).",
    )
    parser.add_argument(
        "--prompt-tokens",
        type=positive,
        default=32,
        help="Length of the prompt, in tokens (default: 32).",
    )
    parser.add_argument(
        "--new-tokens", type=positive, default=16, help="Number of tokens to decode (default: 16)."
    )


def run(
    num_experts: int,
    num_layers: int,
    seed: int,
    prompt_tokens: int,
    new_tokens: int,
    model: Path = Path(DEFAULT_PRESET),
    setup: RankSetup = SINGLE_RANK,
) -> Result:
    """Build the model, run it, print the report, and return its numbers."""
    named = read_model(model)
    config = _config(named.config, num_experts, num_layers)
    _check_sizes(config, named.layout, setup, prompt_tokens, new_tokens)
    parameters = sum(int(np.prod(weight.shape)) for weight in all_params(config))
    stats = DispatchStatsBackend()
    built = _build(config, named.layout, setup, stats, seed, parameters)
    prompt = np.random.default_rng(seed).integers(0, config.vocab_size, prompt_tokens).tolist()
    params = SamplingParams(max_tokens=new_tokens, ignore_eos=True, logprobs=0)
    with progress("tokens", total=new_tokens, unit="tokens") as advance:
        generated = generate(built, [prompt], params, on_token=lambda _, __: advance(1))
    with progress("one prefill of all tokens", total=None) as _:
        logits_TV = built.forward([[*prompt, *generated[0][:-1]]])[0]
    engine = generated.stats
    numbers: dict[str, Any] = {"model": named.title, "layers": num_layers, "experts": num_experts}
    numbers |= {"seed": seed, "prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
    numbers |= {
        "parameters": parameters,
        "weights_bytes": nbytes(built.weights),
        "kv_cache_bytes": engine.cache_bytes,
        "prefill_tokens_per_second": engine.prefill_tokens_per_second,
        "decode_tokens_per_second": finite(engine.decode_tokens_per_second),
        "peak_memory_bytes": peak_memory(),
        "threads": thread_count().number,
        "relative_difference": _difference(logits_TV, prompt_tokens, generated.logprobs[0]),
        "allowed_difference": ALLOWED,
        "dispatch": dispatch_numbers(stats, setup.group),
    }
    _report(numbers, engine, " of rank 0" if setup.group.size > 1 else "")
    if dispatch := dispatch_report(stats, setup.group):
        console().print(dispatch)
    return Result(numbers, int(numbers["relative_difference"] > ALLOWED))


def _build(
    config: MiMoConfig,
    layout: HubLayout,
    setup: RankSetup,
    stats: DispatchStatsBackend,
    seed: int,
    parameters: int,
) -> MiMoV2FlashModel:
    """Return the model of this rank's random weights, showing the progress."""
    with progress("random weights", total=parameters, unit="numbers") as advance:
        weights = random_weights(
            config, seed=seed, made=advance, shard_spec=setup.shard_spec, layout=layout
        )
    return build_model(weights, config, backend=stats, group=setup.group, parallel=setup.plan)


def _report(numbers: dict[str, Any], engine: EngineStats, rank: str) -> None:
    difference = "{relative_difference:.1e} of the range, allowed {allowed_difference:.0e}"
    rows = (
        ("layers, experts", f"{numbers['layers']}, {numbers['experts']}"),
        ("parameters", f"{numbers['parameters'] / 1e9:.2f} billion"),
        (f"weights{rank}", amount(numbers["weights_bytes"])),
        (f"KV cache{rank}", amount(numbers["kv_cache_bytes"])),
        *engine_rows(engine),
        (f"peak memory{rank}", amount(numbers["peak_memory_bytes"])),
        ("threads", "{} ({})".format(*thread_count())),
        ("decode against one prefill", difference.format(**numbers)),
    )
    title = f"{numbers['model']} with random weights"
    console().print(table(title, ("what",), ("amount",), rows))


def _config(whole: MiMoConfig, num_experts: int, num_layers: int) -> MiMoConfig:
    if not 1 <= num_experts <= whole.n_routed_experts:
        raise ValueError(f"--num-experts {num_experts} is not in 1..{whole.n_routed_experts}")
    return replace(
        whole.truncated(num_layers),
        n_routed_experts=num_experts,
        num_experts_per_tok=min(whole.num_experts_per_tok, num_experts),
    )


def _check_sizes(
    config: MiMoConfig, layout: HubLayout, setup: RankSetup, prompt_tokens: int, new_tokens: int
) -> None:
    """Raise ValueError, before a weight is made, unless the model and its tokens fit into memory.

    A rank makes all heads, which it shards afterwards, and the logits of all tokens, to compare.
    """
    setup.plan.check(config)
    tokens, longest = prompt_tokens + new_tokens - 1, config.max_position_embeddings
    if tokens > longest:
        raise ValueError(
            f"--prompt-tokens {prompt_tokens} and --new-tokens {new_tokens} are a context of "
            f"{tokens}, allowed is {longest}"
        )
    ranks = setup.plan.expert_parallel_size
    workload = Workload(ranks, tokens, min(tokens, DEFAULTS["numpy"].max_step), layout=layout)
    device = devices(config, ParallelConfig(ranks, 1, ranks), workload)[0]
    logits = 2 * tokens * config.vocab_size * np.dtype(np.float32).itemsize
    device = device._replace(buffers=device.buffers | {"logits": logits})
    memory = memory_size("memory", "100%", setup.group)
    if device.total > memory:
        raise ValueError(f"the free memory of this machine: {verdict(device, memory)}")


def _difference(
    logits_TV: np.ndarray, prompt_tokens: int, decoded: SequenceOf[TokenLogprob]
) -> float:
    """Return the largest difference of a prefill's log-probabilities to those of decoding.

    It is relative to the range of the prefill's logits.
    """
    token_T = np.array([each.token for each in decoded])
    prefilled = token_logprobs(logits_TV[prompt_tokens - 1 :], token_T, [0] * len(token_T))
    pairs = zip(prefilled, decoded, strict=True)
    return max(abs(one.logprob - two.logprob) for one, two in pairs) / float(np.ptp(logits_TV))
