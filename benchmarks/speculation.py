"""Benchmark speculative decoding of mimo-tiny: tokens per step, and time against no drafts.

Prompts are 150 tokens after the end-of-text token, evenly spaced in the held-out text; 120 tokens
follow each. Tokens per step are counts: greedily and with a seed every run has the same ones.
Times are how many times as fast "auto" is as no drafts, by wall time and CPU time, both sides in
turn. `--wide` times three random layers of MiMo-V2-Flash at true widths, 100 tokens after 16, whose
drafts are refused, and composes a step of 48 layers (`benchmarks.draft_layers`). Each measurement
replaces its part of the results.

    python -m benchmarks.speculation            # the counts, in two minutes
    python -m benchmarks.speculation --times    # times of mimo-tiny, on a quiet machine
    python -m benchmarks.speculation --wide     # likewise, about four minutes, 5 GB
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoV2FlashModel, load_model
from mimo_v2_flash.checkpoint.random_weights import random_weights
from mimo_v2_flash.cli.console import console, progress, table
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.stats import EngineStats
from mimo_v2_flash.text.tokenizer import end_of_text, load_tokenizer, tokens

from .draft_layers import composed
from .machine import describe_machine
from .made_weights import model_config
from .steps import ROOT

RESULTS = Path(__file__).parent / "results" / "speculation.json"
TINY = ROOT / "examples" / "mimo-tiny"
TEXT = TINY / "training" / "held_out.txt"
PROMPTS, PROMPT, NEW, HEADS = 30, 150, 120, 3
WIDE_PROMPT, WIDE_NEW = 16, 100
BATCHES, WIDE_BATCHES = (1, 4, 8, 32), (1, 8, 32)
GREEDY = SamplingParams(max_tokens=NEW, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=1.0)
SEEDED = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=1.0, seed=0)
CASES = {  # name: settings, heads, tokens per step of the prototype or at least wanted
    "greedy, 1 head": (GREEDY, 1, "1.613"),
    "greedy, 2 heads": (GREEDY, 2, "1.954"),
    "greedy, 3 heads": (GREEDY, 3, "2.142"),
    "temperature 1, no seed, 3 heads": (SAMPLED, 3, "at least 2.0"),
    "temperature 1, seeds, 3 heads": (SEEDED, 3, ""),
}


def prompts_of_text() -> list[list[int]]:
    """Return the prompts."""
    tokenizer = load_tokenizer(TINY)
    token_T = tokens(tokenizer, TEXT.read_text(encoding="utf-8"))
    starts = np.linspace(0, len(token_T) - PROMPT - NEW, PROMPTS).astype(int)
    return [[end_of_text(tokenizer), *token_T[start : start + PROMPT]] for start in starts]


def answer(
    model: MiMoV2FlashModel,
    prompts: Sequence[list[int]],
    params: SamplingParams,
    drafts: int | str,
) -> tuple[EngineStats, list[list[int]]]:
    """Return the statistics of an engine that answers all prompts at once, and the answers."""
    options: dict[str, Any] = {"prefix_cache": 0, "draft_tokens": drafts}
    length = max(map(len, prompts)) + NEW
    with Engine(model, len(prompts), length, **options) as engine:
        ids = [
            engine.submit(prompt, params, first_index=index) for index, prompt in enumerate(prompts)
        ]
        results = engine.run()
        return engine.stats, [results[id_].tokens for id_ in ids]


def count(model: MiMoV2FlashModel, prompts: list[list[int]]) -> dict[str, Any]:
    """Return tokens per step, drafted and accepted tokens of each case; answers must be equal."""
    figures: dict[str, Any] = {}
    plain = {id(params): answer(model, prompts, params, 0)[1] for params in (GREEDY, SEEDED)}
    with progress("cases", total=len(CASES), unit="cases") as advance:
        for name, (params, heads, _) in CASES.items():
            stats, answers = answer(model, prompts, params, heads)
            if answers != plain.get(id(params), answers):
                raise ValueError(f"{name}: the tokens are not those without drafts")
            figures[name] = {
                "tokens_per_step": round(stats.tokens_per_step, 4),
                "drafted": stats.drafted,
                "accepted": stats.accepted,
            }
            advance(1)
    return figures


def time_ratios(
    model: MiMoV2FlashModel,
    prompts: list[list[int]],
    params: SamplingParams,
    *,
    batches: Sequence[int],
    rounds: int,
) -> dict[str, Any]:
    """Return how many times as fast "auto" is as no drafts, greedily, by batch.

    Both sides in turn, engines from prompts to the last answer; figures are medians of rounds.
    """
    ratios: dict[str, Any] = {}
    for batch in batches:
        several = [prompts[index % len(prompts)] for index in range(batch)]
        answer(model, several, replace(params, max_tokens=4), HEADS)  # what is compiled, is now
        figures: dict[str, list[float]] = {"wall": [], "CPU": [], "tokens per step": []}
        for round_ in range(rounds):
            runs = {}
            for drafts in (0, "auto") if round_ % 2 else ("auto", 0):
                start = time.perf_counter(), time.process_time()
                stats, _ = answer(model, several, params, drafts)
                wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
                runs[drafts] = wall, cpu, stats.tokens_per_step
            figures["wall"].append(runs[0][0] / runs["auto"][0])
            figures["CPU"].append(runs[0][1] / runs["auto"][1])
            figures["tokens per step"].append(runs["auto"][2])
        ratios[f"batch {batch}"] = {name: median(values) for name, values in figures.items()}
    return ratios


def measure_wide(prompts: list[list[int]], rounds: int, *, quick: bool) -> dict[str, Any]:
    """Return the ratios of three layers at true widths, and the composed step of 48."""
    config = model_config(quick=quick)
    model = MiMoV2FlashModel(random_weights(config, seed=0, mtp_heads=HEADS), config)
    short, params = (
        [prompt[:WIDE_PROMPT] for prompt in prompts],
        replace(GREEDY, max_tokens=WIDE_NEW),
    )
    ratios = time_ratios(model, short, params, batches=WIDE_BATCHES, rounds=rounds)
    del model
    return {"speed of auto, true widths": ratios, "48 layers, batch 1": composed(quick=quick)}


def report_counts(counts: dict[str, Any]) -> None:
    """Print tokens per step."""
    report = table("Tokens per step", ("case",), ("measured", "expected", "accepted by head"))
    for name, figures in counts.items():
        pairs = zip(figures["accepted"], figures["drafted"], strict=True)
        parts = ", ".join(f"{accepted / drafted:.3f}" for accepted, drafted in pairs if drafted)
        report.add_row(name, f"{figures['tokens_per_step']:.3f}", CASES[name][2], parts)
    console().print(report)


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", action="store_true", help="Measure times of mimo-tiny alone.")
    parser.add_argument("--wide", action="store_true", help="Measure times at true widths alone.")
    parser.add_argument("--rounds", type=int, help="Rounds of times (default: 5; wide: 1).")
    parser.add_argument("--quick", action="store_true", help="Two prompts; no results.")
    options = parser.parse_args()
    prompts = prompts_of_text()[: 2 if options.quick else None]
    results: dict[str, Any] = {"machine": describe_machine()}
    if options.wide:
        results |= measure_wide(prompts, options.rounds or 1, quick=options.quick)
    if options.times:
        ratios = time_ratios(
            load_model(TINY), prompts, GREEDY, batches=BATCHES, rounds=options.rounds or 5
        )
        results["speed of auto, mimo-tiny"] = ratios
    console().print_json(data=results)
    if not (options.times or options.wide):
        results["counts"] = count(load_model(TINY), prompts)
        report_counts(results["counts"])
    if not options.quick:
        known = json.loads(RESULTS.read_text())
        RESULTS.write_text(json.dumps(known | results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
