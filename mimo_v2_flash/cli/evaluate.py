"""Evaluate a model on a text: bits per byte, and perplexity per token.

The text is split into consecutive windows. The model sees each window by itself, after the
end-of-text token, and predicts every token of the text once. Bits per byte are the bits of all
tokens over the bytes of the file. With --draft-tokens, MTP heads predict the tokens of the text
too, without generating: how often their best token is the model's is what drafts are accepted for.
With --compare, the error of the logits against those of another compute type is measured, or the
cost of storage formats: bits per byte, divergence and bytes beside the model as stored.
"""

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.params import nbytes
from mimo_v2_flash.cpu.thread_count import thread_count
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.generation.likelihood import total_bits
from mimo_v2_flash.generation.logits_error import LogitsError, logits_error
from mimo_v2_flash.generation.mtp_agreement import Agreement, mtp_agreement
from mimo_v2_flash.inputs import as_draft_tokens
from mimo_v2_flash.layers.dispatch_stats import DispatchStatsBackend
from mimo_v2_flash.model import MiMoV2FlashModel
from mimo_v2_flash.model_loader import load_model
from mimo_v2_flash.text.tokenizer import end_of_text, load_tokenizer, tokens

from .console import console, progress, table
from .dispatch_report import dispatch_numbers, dispatch_report
from .entry import CommandError
from .example_model import add_model_argument, check_folder
from .format_comparison import (
    Comparison,
    comparisons,
    format_numbers,
    report_formats,
)
from .option_types import natural, positive
from .parallel_options import SINGLE_RANK, RankSetup, add_parallel_arguments
from .result import Result
from .runtime_options import RuntimeOptions, add_runtime_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_model_argument(parser)
    add_parallel_arguments(parser)
    add_runtime_arguments(parser)
    parser.add_argument(
        "--text", type=Path, required=True, metavar="FILE", help="Text file to evaluate, in UTF-8."
    )
    parser.add_argument(
        "--length",
        type=positive,
        help="Window length, in tokens (default: --context with xla and neuron, else the model's "
        "maximum).",
    )
    parser.add_argument(
        "--draft-tokens",
        type=natural,
        default=0,
        metavar="N",
        help="Number of MTP heads whose best tokens are compared with the model's (default: 0).",
    )
    parser.add_argument(
        "--compare",
        type=comparisons,
        default=(),
        metavar="LIST",
        help="Compute type whose logits are compared with those of --compute, or types of --isq "
        "whose models are compared with the model as stored, each with a compute type, such as "
        "q8_0,q4k:bfloat16 (default: none).",
    )


def run(
    model: Path,
    text: Path,
    length: int | None,
    draft_tokens: int = 0,
    compare: tuple[Comparison, ...] = (),
    setup: RankSetup = SINGLE_RANK,
    **options: Any,
) -> Result:
    """Evaluate, print the report, and return its numbers."""
    stats_backend = DispatchStatsBackend()
    runtime, reference = RuntimeOptions.pop_from(options), None
    compute, items = _split(compare, runtime)
    content, size = _read(text)
    check_folder(model)
    load = partial(load_model, model, group=setup.group, parallel=setup.plan)
    runner = load(**runtime.keywords(stats_backend, model.resolve().name, content))
    if compute:
        compared = runtime._replace(compute=compute, record_routing=None)
        reference = load(**compared.keywords(NumpyBackend()))
    as_draft_tokens(draft_tokens, runner.mtp_heads)
    tokenizer = load_tokenizer(model)
    token_T = tokens(tokenizer, content)
    windows = {"length": length or runner.max_length, "begin": end_of_text(tokenizer)}
    start, parts = time.perf_counter(), (runner, reference, token_T, draft_tokens, windows)
    bits, error, agreements = _measure(f"{text}", *parts)
    seconds = time.perf_counter() - start
    numbers = {"model": model.resolve().name, "text": text, "compute": runner.compute}
    numbers |= _likelihood(bits, size, len(token_T), windows["length"]) | {
        "compare": error and _comparison(error, compute, size),
        "formats": _formats(items, runtime, load, runner, token_T, windows, size),
        "mtp_agreement": [pair._asdict() for pair in agreements],
        "seconds": seconds,
        "tokens_per_second": len(token_T) / seconds,
        "threads": thread_count().number,
        "dispatch": dispatch_numbers(stats_backend, setup.group),
    }
    _report(numbers)
    if dispatch := dispatch_report(stats_backend, setup.group):
        console().print(dispatch)
    return Result(numbers)


def _split(
    compare: tuple[Comparison, ...], runtime: RuntimeOptions
) -> tuple[str, tuple[Comparison, ...]]:
    """Return the one compute type that is compared, or else what is compared with as stored."""
    if len(compare) == 1 and compare[0].isq is None:
        return compare[0].compute, ()
    if compare and (runtime.isq or runtime.topology):
        raise CommandError("--compare of types is with the model as stored: leave out --isq")
    return "", compare


def _formats(
    items: tuple[Comparison, ...],
    runtime: RuntimeOptions,
    load: Callable[..., MiMoV2FlashModel],
    reference: MiMoV2FlashModel,
    token_T: list[int],
    windows: dict[str, int],
    size: int,
) -> list[dict[str, Any]]:
    """Return the numbers of each format, on a text of `size` bytes; one at a time is loaded."""
    if not items:
        return []

    def measure(item: Comparison) -> tuple[int, LogitsError]:
        options = runtime._replace(isq=item.isq, compute=item.compute, record_routing=None)
        model = load(**options.keywords(NumpyBackend()))
        length, begin = windows["length"], windows["begin"]
        error = logits_error(model, reference, token_T, length=length, begin=begin)
        return nbytes(model.weights), error

    measured = {item: measure(item) for item in items}
    return format_numbers(measured, Comparison(None, reference.compute), reference.weights, size)


def _measure(
    text: str,
    model: MiMoV2FlashModel,
    reference: MiMoV2FlashModel | None,
    token_T: list[int],
    heads: int,
    windows: dict[str, int],
) -> tuple[float, LogitsError | None, list[Agreement]]:
    """Return the bits of a text, the error against a reference and what MTP heads agree on.

    The text is read once, and once more for the heads where there is a reference.
    """
    error, agreements = None, list[Agreement]()
    readings = 2 if heads and reference is not None else 1
    with progress(text, total=readings * len(token_T), unit="tokens") as advance:
        read: dict[str, Any] = {**windows, "advance": advance}
        if heads:
            bits, agreements = mtp_agreement(model, token_T, heads=heads, **read)
        if reference is not None:
            error = logits_error(model, reference, token_T, **read)
            bits = error.bits
        elif not heads:
            bits = total_bits(model, token_T, **read)
    return bits, error, agreements


def _likelihood(bits: float, size: int, count: int, length: int) -> dict[str, Any]:
    """Return what the bits of `count` tokens mean for a text of `size` bytes."""
    return {
        "bytes": size,
        "tokens": count,
        "windows": -(-count // length),
        "window_tokens": length,
        "bits_per_byte": bits / size,
        "nats_per_token": bits * math.log(2) / count,
        "perplexity": 2 ** (bits / count),
    }


def _comparison(error: LogitsError, compute: str, size: int) -> dict[str, Any]:
    """Return the error against a compute type, whose bits are of a text of `size` bytes."""
    numbers = error._asdict()
    del numbers["bits"]
    return {"compute": compute, "bits_per_byte": numbers.pop("reference_bits") / size} | numbers


def _report(numbers: dict[str, Any]) -> None:
    rows = (
        ("model", numbers["model"]),
        ("compute", numbers["compute"]),
        ("bytes, tokens", f"{numbers['bytes']:,}, {numbers['tokens']:,}"),
        ("windows", f"{numbers['windows']:,} of {numbers['window_tokens']:,} tokens"),
        ("bits per byte", f"{numbers['bits_per_byte']:.6f}"),
        ("perplexity", f"{numbers['perplexity']:.4f}"),
        *_comparison_rows(numbers["compare"]),
        *(_agreement(*each) for each in enumerate(numbers["mtp_agreement"], start=1)),
        ("speed", f"{numbers['tokens_per_second']:.1f} tokens/s"),
        ("threads", "{} ({})".format(*thread_count())),
    )
    console().print(table(f"{numbers['text']}", ("what",), ("amount",), rows))
    if numbers["formats"]:
        report_formats(numbers["formats"])


def _comparison_rows(numbers: dict[str, Any] | None) -> tuple[tuple[str, str], ...]:
    if numbers is None:
        return ()
    return (
        (f"bits per byte, {numbers['compute']}", f"{numbers['bits_per_byte']:.6f}"),
        ("largest difference", f"{numbers['largest_of_range']:.1e} of the logits' range"),
        ("rms difference", f"{numbers['rms_of_std']:.1e} of their standard deviation"),
        ("KL divergence", f"{numbers['kl_nats']:.1e} nats"),
        ("same best token", f"{numbers['same_top1']:.2%}"),
    )


def _agreement(head: int, numbers: dict[str, int]) -> tuple[str, str]:
    agreed, predicted = numbers["agreed"], numbers["predicted"]
    share = f"{agreed / predicted:.2%}" if predicted else "none"
    return f"MTP head {head} agrees", f"{share} of {predicted:,} tokens"


def _read(file: Path) -> tuple[str, int]:
    """Return the text of `file` and its size in bytes; ValueError if it is empty or not UTF-8."""
    content = file.read_bytes()
    if not content:
        raise ValueError(f"--text {file} is empty: there is nothing to measure")
    try:
        return content.decode(), len(content)
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(
            f"--text {file} is not UTF-8: byte {error.start} is 0x{byte:02x}"
        ) from error
