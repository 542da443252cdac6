"""Continue a text, or answer a message, and say what it took.

The text goes to standard output as it comes, everything else to standard error. Sampling is as the
checkpoint's generation_config.json asks, or greedy, but for what is given here.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from mimo_v2_flash.generation.generation_config import SAMPLING, load_generation_config
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.text.completion import CONTEXT, Completion, complete

from .console import amount, console, table
from .dispatch_report import dispatch_report
from .example_model import add_model_argument, open_model
from .generation_stats import GenerationStats
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .runtime_options import RuntimeOptions, add_runtime_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this mode."""
    add_model_argument(parser)
    add_parallel_arguments(parser)
    add_runtime_arguments(parser)
    parser.add_argument("--prompt", required=True, help="the text to continue; may be empty")
    parser.add_argument("--chat", action="store_true", help="answer the prompt as a message")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="at most (200)")
    parser.add_argument("--temperature", type=float, help="0 is greedy")
    parser.add_argument("--top-p", type=float, help="keep the likeliest of this mass; 1 keeps all")
    parser.add_argument("--top-k", type=int, help="keep so many of the likeliest; 0 keeps all")
    parser.add_argument("--min-p", type=float, help="keep those this times as likely as the best")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 discourages; 1 is off")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (0)")
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show the text as it comes, or at its end",
    )


def run(
    model: Path,
    prompt: str,
    chat: bool,
    max_new_tokens: int,
    seed: int,
    stream: bool,
    setup: RankSetup = SINGLE_RANK,
    **options: Any,
) -> int:
    """Write the text and the report, and return the exit status."""
    runtime = RuntimeOptions.pop_from(options)
    config, weights, tokenizer = open_model(model, setup.shard_spec)
    asked = {name: options[name] for name in SAMPLING if options[name] is not None}
    asked = load_generation_config(model) | asked | {"seed": seed, "cache_dtype": runtime.kv_dtype}
    stats = GenerationStats(config, setup)
    runner = runtime.model(weights, config, setup, host=stats)
    said_to = [{"role": "user", "content": prompt}] if chat else prompt
    completed = partial(complete, runner, tokenizer, said_to, **asked)
    # Loads compiled code, or programs, which is no part of what is measured.
    runner.forward([[0]]) if stats.is_eager else completed(max_new_tokens=min(2, max_new_tokens))
    stats.begin()

    def show(piece: str) -> None:
        stats.times.append(time.perf_counter())
        if stream and len(stats.times) == 2:  # now the prompt has been accepted
            _write(sys.stderr, f"{prompt}\n" if chat else prompt)
        if stream:
            _write(sys.stdout, piece)

    said = completed(max_new_tokens=max_new_tokens, on_text=show)
    _write(sys.stdout, "\n" if stream else f"{said.text}\n")
    _report(said, stats, runner)
    return 0


def _report(said: Completion, stats: GenerationStats, model: MiMoV2FlashModel) -> None:
    """Print what the text took, on all ranks together."""
    prompt, new = len(said.prompt_tokens), len(said.new_tokens)
    start, first, last = stats.times[0], stats.times[1], stats.times[max(new, 1)]
    seen = prompt + max(new - 1, 0)
    cache = model.new_cache(1, seen)
    touched = "{} of {}".format(*stats.experts_touched())
    watched = [("experts touched", touched)] if stats.is_eager else []
    report = table(f"Stopped by {said.stopped}", ("what",), ("amount",))
    for row in (
        ("prompt, new tokens", f"{prompt}, {new}"),
        ("time to first token", f"{first - start:.3f} s" if new else "none"),
        ("prefill", f"{prompt / (first - start):.1f} tokens/s" if new else "none"),
        ("decode", f"{(new - 1) / (last - first):.1f} tokens/s" if new > 1 else "none"),
        (f"KV cache of {cache.max_length} tokens", amount(stats.total(cache.nbytes))),
        *watched,
    ):
        report.add_row(*row)
    out = console(sys.stderr)
    out.print("\n", report)
    if exchanges := dispatch_report(stats.exchanges, stats.setup.group):
        out.print(exchanges)
    if said.stopped == CONTEXT:
        out.print(f"The context is full: the model knows {seen} positions.")


def _write(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()
