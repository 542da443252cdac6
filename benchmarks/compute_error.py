"""Measure the error of bfloat16 compute and narrow KV caches on mimo-tiny, beside transformers.

The reference is this project in float32; transformers in float32 shows how exact that is. Windows
of 1,024 tokens are evenly spaced in the held-out text. The last row is no error: it is what steps
of nine tokens change, since rounding lifts the last bits of sums (docs/decisions/0043).

    python -m benchmarks.compute_error            # some minutes
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.transformers_model import load
from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_model
from mimo_v2_flash.cli.console import console, progress, table
from mimo_v2_flash.generation.logits_error import ErrorSums
from mimo_v2_flash.inputs import CACHE_DTYPES
from mimo_v2_flash.text.tokenizer import end_of_text, load_tokenizer, tokens

from .machine import describe_machine
from .speculation import TEXT, TINY

RESULTS = Path(__file__).parent / "results" / "compute_error.json"
WINDOWS, LENGTH, STEP = 8, 1024, 9


def windows(count: int) -> list[np.ndarray]:
    """Return token ids of the windows, each after the end-of-text token."""
    tokenizer = load_tokenizer(TINY)
    token_T = tokens(tokenizer, TEXT.read_text(encoding="utf-8"))
    starts = np.linspace(0, len(token_T) - LENGTH, count).astype(int)
    begin = end_of_text(tokenizer)
    return [np.array([begin, *token_T[start : start + LENGTH]]) for start in starts]


def in_steps(model: MiMoV2FlashModel, token_T: np.ndarray) -> np.ndarray:
    """Return the logits of a prefill in steps of `STEP` tokens."""
    cache, parts = model.new_cache(1, len(token_T)), []
    for start in range(0, len(token_T), STEP):
        part_T = token_T[start : start + STEP]
        position_T = np.arange(start, start + len(part_T))
        parts.append(model.step(part_T[None], position_T[None], cache)[0])
    return np.concatenate(parts)


def of_ours(model: MiMoV2FlashModel) -> Callable[[np.ndarray], np.ndarray]:
    """Return a model as a function from tokens to logits."""
    return lambda token_T: model.forward(token_T[None])[0]


def of_transformers(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return transformers' model as a function from tokens to logits."""
    torch.set_grad_enabled(False)
    model = load(TINY, MiMoConfig.from_pretrained(TINY), dtype)

    def logits(token_T: np.ndarray) -> np.ndarray:
        output = model(torch.from_numpy(token_T)[None], use_cache=False)
        return output.logits[0].float().numpy()

    return logits


def measure(count: int) -> dict[str, dict[str, Any]]:
    """Return the `LogitsError` of each contender, as a dictionary; bits are per token."""
    exact, rounding = load_model(TINY), load_model(TINY, compute="bfloat16")
    contenders = {
        f"{name} cache": of_ours(load_model(TINY, cache_dtype=name))
        for name in CACHE_DTYPES
        if name != "float32"
    }
    contenders |= {
        "transformers float32": of_transformers("float32"),
        "transformers bfloat16": of_transformers("bfloat16"),
        "bfloat16 compute": of_ours(rounding),
    }
    steps, sums = f"the same in steps of {STEP}", {name: ErrorSums() for name in contenders}
    sums[steps] = ErrorSums()
    with progress("windows", total=count, unit="windows") as advance:
        for window_T in windows(count):
            token_T, target_T = window_T[:-1], window_T[1:]
            reference_TV = exact.forward(token_T[None])[0]
            for name, contender in contenders.items():
                logits_TV = contender(token_T)
                sums[name].add(logits_TV, reference_TV, target_T)
            sums[steps].add(in_steps(rounding, token_T), logits_TV, target_T)
            advance(1)
    errors = {name: total.error()._asdict() for name, total in sums.items()}
    for error in errors.values():
        for name in ("bits", "reference_bits"):
            error[f"{name}_per_token"] = error.pop(name) / (count * LENGTH)
    return errors


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One window; no results.")
    options = parser.parse_args()
    count = 1 if options.quick else WINDOWS
    results = {"machine": describe_machine(), "windows": count, "errors": measure(count)}
    columns = ("largest / range", "rms / std", "KL, nats", "same top-1", "bits per token")
    report = table(f"Error of logits, {count} x {LENGTH} tokens", ("against float32",), columns)
    for name, error in results["errors"].items():
        sizes = (error[key] for key in ("largest_of_range", "rms_of_std", "kl_nats"))
        numbers = [*(f"{size:.1e}" for size in sizes), f"{error['same_top1']:.2%}"]
        report.add_row(name, *numbers, f"{error['bits_per_token']:.4f}")
    console().print(report)
    if not options.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
