"""Benchmark the engine: many requests at once, pauses, reused prefixes, the cost of scheduling.

Every figure is a ratio within one run, both sides in turn; the medians are over rounds. Batch 1 of
another checkout is measured in a process of its own; transformers generates from left-padded
prompts, with the weights in bfloat16 and in float32, of which the faster counts.

    git worktree add ../before COMMIT
    python -m benchmarks.engine --before ../before      # half an hour; 18 GB of memory, 6 of disk
    python -m benchmarks.engine --before ../before --only batch     # others stay as they were
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mimo_v2_flash import MiMoV2FlashModel, load_model
from mimo_v2_flash.cli.console import console, progress, table
from mimo_v2_flash.engine import Engine, SamplingParams

from .implementations import FLOAT8, load_implementation
from .machine import describe_machine
from .made_weights import model_config, write_both
from .steps import ROOT, ask, worker

RESULTS = Path(__file__).parent / "results" / "engine.json"
PLOT = RESULTS.with_suffix(".svg")
TINY = ROOT / "examples" / "mimo-tiny"
PROMPT, NEW = 32, 64
LENGTHS = (480, 32, 256, 64, 384, 128, 96, 320)  # prompts of the batch at true widths
BATCH_NEW = 32
MEASURES = {  # each measure of `Cases`: the figures that it gives, and what is wanted of them
    "many_requests": {"64 requests, mimo-tiny: tokens per second over batch 1 before": 10},
    "batch": {
        "batch 8, true widths: tokens per second over transformers": 3,
        "batch 8, true widths, bfloat16 compute: tokens per second over transformers": 3,
    },
    "longest_pause": {"longest pause beside a prompt of 4,096, over one chunk's time": 1.3},
    "first_token": {"time to first token, cold over 1,000 of 1,024 tokens known": 8},
    "greedy_share": {"scheduler and sampling, part of a step of 32 greedy sequences": 0.15},
    "sampled_share": {"scheduler and sampling, part of a step of 32 sampled sequences": 0.15},
}
BARS = {name: bar for bars in MEASURES.values() for name, bar in bars.items()}
SAMPLED = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=NEW, ignore_eos=True)


class Cases:
    """The figures, each as a method that measures one round of it."""

    def __init__(self, folder: Path, before: Any) -> None:
        self._before, self._random = before, np.random.default_rng(0)
        self._tiny, self._wide = load_model(TINY), load_model(folder / FLOAT8, max_length=8192)
        self._rounded = load_model(folder / FLOAT8, max_length=8192, compute="bfloat16")
        self._others = {
            dtype: load_implementation(f"transformers-{dtype}", folder).model
            for dtype in ("bfloat16", "float32")
        }

    def many_requests(self) -> float:
        """Return the tokens per second of 64 requests at once over one's of the other checkout."""
        alone = NEW / ask(self._before, f"generate tiny {PROMPT} {NEW}")
        params = SamplingParams(max_tokens=NEW, ignore_eos=True)
        seconds = _seconds(self._tiny, self._prompts([PROMPT] * 64), params, 64)
        return 64 * NEW / seconds / alone

    def batch(self) -> list[float]:
        """Return the seconds of transformers for 8 prompts over the engine's in both computes."""
        prompts = self._prompts(LENGTHS)
        params = SamplingParams(max_tokens=BATCH_NEW, ignore_eos=True)
        models = (self._wide, self._rounded)
        ours = [_seconds(model, prompts, params, len(prompts)) for model in models]
        theirs = min(_padded(model, prompts) for model in self._others.values())
        return [theirs / seconds for seconds in ours]

    def longest_pause(self) -> float:
        """Return the longest step of 7 sequences beside a long prompt over a chunk's alone."""
        long = self._prompts([4096])[0]
        params = SamplingParams(max_tokens=1000, ignore_eos=True)
        alone = self._steps(self._wide, [], long)
        beside = self._steps(self._wide, self._prompts([64] * 7), long, params)
        return max(beside) / max(alone)

    def first_token(self) -> float:
        """Return the time to the first token of a cold prompt over that of a known one."""
        prompt, params = self._prompts([1024])[0], SamplingParams(max_tokens=1)
        with Engine(self._wide, 1, 1100, prefix_cache=1 << 32) as engine:
            seconds = []
            for tokens in (prompt, [*prompt[:1000], *self._prompts([24])[0]]):
                start = time.perf_counter()
                engine.submit(tokens, params)
                engine.run()
                seconds.append(time.perf_counter() - start)
        return seconds[0] / seconds[1]

    def greedy_share(self) -> float:
        """Return the part of a step of greedy sequences that is not the model's."""
        return self._share(SamplingParams(max_tokens=NEW, ignore_eos=True))

    def sampled_share(self) -> float:
        """Return the part of a step of sampled sequences that is not the model's."""
        return self._share(SAMPLED)

    def _share(self, params: SamplingParams) -> float:
        with Engine(self._tiny, 32, 2 * NEW) as engine:
            timed = engine._executor = engine._runner._executor = Timed(engine._executor, "step")
            for prompt in self._prompts([PROMPT] * 32):
                engine.submit(prompt, params)
            engine.step()
            engine.step()
            timed.seconds, start = 0.0, time.perf_counter()
            for _ in range(NEW // 2):
                engine.step()
            return 1 - timed.seconds / (time.perf_counter() - start)

    def _steps(
        self,
        model: MiMoV2FlashModel,
        others: list[list[int]],
        prompt: list[int],
        params: SamplingParams | None = None,
    ) -> list[float]:
        """Return the seconds of the steps of a prompt that arrives while others generate."""
        with Engine(model, 8, 8192, prefix_cache=0, prefill_chunk=256) as engine:
            for other in others:
                engine.submit(other, params)
            for _ in range(4 if others else 0):
                engine.step()
            id_, seconds, is_done = engine.submit(prompt, SamplingParams(max_tokens=1)), [], False
            while not is_done:
                start = time.perf_counter()
                events = engine.step()
                seconds.append(time.perf_counter() - start)
                is_done = any(event.id == id_ for event in events)
        return seconds

    def _prompts(self, lengths: Any) -> list[list[int]]:
        return [self._random.integers(3, 4000, length).tolist() for length in lengths]


class Timed:
    """An object that adds up the seconds of one of its methods."""

    def __init__(self, timed: Any, method: str) -> None:
        self._timed, self._method, self.seconds = timed, method, 0.0

    def __getattr__(self, name: str) -> Any:
        """Return the object's attribute; calls of the method are timed."""
        attribute = getattr(self._timed, name)
        return self._call if name == self._method else attribute

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = getattr(self._timed, self._method)(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return result


def _seconds(
    model: MiMoV2FlashModel, prompts: list[list[int]], params: SamplingParams, rows: int
) -> float:
    """Return the seconds in which an engine answers prompts."""
    longest = max(map(len, prompts)) + (params.max_tokens or 0)
    start = time.perf_counter()
    with Engine(model, rows, longest, prefix_cache=0) as engine:
        for prompt in prompts:
            engine.submit(prompt, params)
        engine.run()
    return time.perf_counter() - start


def _padded(model: Any, prompts: list[list[int]]) -> float:
    """Return the seconds in which transformers answers prompts, padded on the left."""
    import torch  # noqa: PLC0415

    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    lengths = torch.tensor([[len(prompt)] for prompt in prompts])
    mask = (torch.arange(longest) >= longest - lengths).long()
    start = time.perf_counter()
    model.generate(
        tokens,
        attention_mask=mask,
        min_new_tokens=BATCH_NEW,
        max_new_tokens=BATCH_NEW,
        do_sample=False,
        pad_token_id=0,
    )
    return time.perf_counter() - start


def draw(figures: dict[str, list[float]], machine: str) -> None:
    """Draw each figure as a part of its bar, 1 where it is reached."""
    names = list(figures)
    with mpl.rc_context({"svg.hashsalt": "engine", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9, 2.6), layout="constrained")
        axes = figure.subplots()
        for position, name in enumerate(names):
            parts = [value / BARS[name] for value in figures[name]]
            axes.plot([min(parts), max(parts)], [position] * 2, color="black", linewidth=0.8)
            axes.barh(position, median(parts), height=0.6, color="#3b6ea5")
        axes.axvline(1, color="#c0392b", linewidth=1)
        labels = [f"{name}\n{median(figures[name]):.3g}, bar {BARS[name]}" for name in names]
        axes.set_yticks(range(len(names)), labels, fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("part of the bar; lines: least and greatest round")
        axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(machine, fontsize=8)
        figure.savefig(PLOT, metadata={"Date": None})


def main() -> int:
    """Measure, print, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True, help="Checkout of batch 1.")
    parser.add_argument("--rounds", type=int, default=5, help="Number of rounds (default: 5).")
    parser.add_argument("--only", choices=MEASURES, help="The one measure to make (default: all).")
    parser.add_argument("--quick", action="store_true", help="Narrow layers; no results.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_both(Path(folder), model_config(quick=options.quick))
        with worker(options.before, Path(folder) / FLOAT8) as before:
            measures = [options.only] if options.only else list(MEASURES)
            figures = _measure(Cases(Path(folder), before), measures, options.rounds)
    report = table("The engine", ("figure",), ("median", "least", "greatest", "bar"))
    for name, values in figures.items():
        numbers = (median(values), min(values), max(values), BARS[name])
        report.add_row(name, *(f"{number:.3g}" for number in numbers))
    console().print(report)
    if not options.quick:
        former = json.loads(RESULTS.read_text())["figures"] if options.only else {}
        figures = {name: (former | figures)[name] for name in BARS if name in former | figures}
        results = {"machine": describe_machine(), "rounds": options.rounds, "figures": figures}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        draw(figures, results["machine"]["cpu"])
    return 0


def _measure(cases: Cases, measures: list[str], rounds: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {name: [] for each in measures for name in MEASURES[each]}
    with progress("rounds", total=rounds + 1, unit="rounds") as advance:
        for round_ in range(rounds + 1):
            for measure in measures:
                values = np.atleast_1d(getattr(cases, measure)()).tolist()
                if round_:  # the first warms up
                    for name, value in zip(MEASURES[measure], values, strict=True):
                        figures[name].append(value)
            advance(1)
    return figures


if __name__ == "__main__":
    sys.exit(main())
