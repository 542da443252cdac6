"""Summary of a run of `benchmarks.cpu`: medians over rounds of ratios, and their targets."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig

from .measures import Workload
from .touched import flops_of_prefill

__all__ = ["IMPLEMENTATIONS", "Round", "Row", "findings", "medians"]

TRANSFORMERS = ("transformers-bfloat16", "transformers-float32")
IMPLEMENTATIONS = ("ours", *TRANSFORMERS)
TIMED = ("decode_1", "decode_8", "prefill", "prefill_long", "first_token")
Round = dict[str, dict[str, Any]]
"""Results of each process of a round, by its name."""


class Row(NamedTuple):
    """A figure in every round, and the target (`bar`) of its median."""

    what: str
    values: list[float]
    bar: float | None = None  # none: for information
    at_most: bool = False
    is_share: bool = False

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool:
        """Whether the median reaches the bar, or there is no bar."""
        if self.bar is None:
            return True
        return self.median <= self.bar if self.at_most else self.median >= self.bar

    @property
    def reached(self) -> str:
        """The median, and the minimum and maximum of the rounds, as text."""
        spread = f"{self._format(min(self.values))} to {self._format(max(self.values))}"
        return f"{self._format(self.median)} ({spread})"

    @property
    def bar_text(self) -> str:
        """The bar, as text."""
        if self.bar is None:
            return ""
        return f"at {'most' if self.at_most else 'least'} {self._format(self.bar)}"

    @property
    def verdict(self) -> str:
        """By how much the bar is reached or missed, in percent of it."""
        if self.bar is None:
            return ""
        beyond = abs(self.median / self.bar - 1)
        return f"{'reached' if self.is_reached else 'missed'}, by {beyond:.0%}"

    def _format(self, value: float) -> str:
        if self.is_share:
            return f"{value:.0%}"
        return f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"


def findings(rounds: list[Round], workload: Workload, config: MiMoConfig) -> list[Row]:
    """Return the figures that have a bar, then those that have none."""
    figures = [_figures(results, workload, config) for results in rounds]

    def row(what: str, key: str, bar: float | None = None, **kind: bool) -> Row:
        return Row(what, [figure[key] for figure in figures], bar, **kind)

    batch = f"decode, batch {workload.rows}"
    short, long = f"{workload.prompt:,}", f"{workload.long:,}"
    return [
        row("decode, batch 1, times transformers' best", "decode_1", 2.5),
        row(batch, "decode_8", 2.0),
        row("decode, batch 1, share of read bandwidth", "decode_1_share", 0.6, is_share=True),
        row(f"prefill {short}", "prefill", 1.2),
        row(f"prefill {long}", "prefill_long", 2.0),
        row("start to first token", "first_token", 3.0),
        row("true head, share of read bandwidth", "head_share", 0.7, is_share=True),
        row("peak memory, of transformers bfloat16's", "memory", 0.6, at_most=True),
        row("sliding layer, a token late against early", "sliding", 1.2, at_most=True),
        row("logits, from transformers float32's", "logits", 1e-4, at_most=True),
        row(f"{batch}, share of read bandwidth", "decode_8_share", is_share=True),
        row(f"prefill {short}, share of BLAS", "prefill_share", is_share=True),
        row(f"prefill {long}, share of BLAS", "prefill_long_share", is_share=True),
        row(f"prefill {short}, against float32", "prefill_float32"),
        row(f"prefill {long}, against float32", "prefill_long_float32"),
        row("peak memory, of transformers float32's", "memory_float32"),
        row("logits of bfloat16, from float32's", "logits_bfloat16"),
    ]


def _figures(results: Round, workload: Workload, config: MiMoConfig) -> dict[str, float]:
    """Return the figures of one round."""
    ours, machine, sliding = results["ours"], results["machine"], results["sliding"]
    bfloat16, float32 = (results[name] for name in TRANSFORMERS)
    rate = machine["flops_per_second"]
    later = [late / early for early, late in (sliding["prefill_token"], sliding["decode_token"])]
    lengths = {"prefill": workload.prompt, "prefill_long": workload.long}
    return {
        **{key: min(bfloat16[key], float32[key]) / ours[key] for key in TIMED},
        "decode_1_share": _bandwidth_share(ours, "decode_1"),
        "decode_8_share": _bandwidth_share(ours, "decode_8"),
        "head_share": _bandwidth_share(results["head"], "head"),
        **{
            f"{key}_share": flops_of_prefill(config, tokens) / ours[key] / rate
            for key, tokens in lengths.items()
        },
        **{f"{key}_float32": float32[key] / ours[key] for key in lengths},
        "memory": ours["peak_bytes"] / bfloat16["peak_bytes"],
        "memory_float32": ours["peak_bytes"] / float32["peak_bytes"],
        "sliding": max(later),
        "logits": results["logits"]["ours"],
        "logits_bfloat16": results["logits"]["bfloat16"],
    }


def _bandwidth_share(results: dict[str, Any], key: str) -> float:
    """Return bytes per second as a share of read bandwidth: the higher one of before and after."""
    return results[f"{key}_bytes"] / results[key] / max(results[f"{key}_read"])


def medians(rounds: list[Round], workload: Workload) -> list[tuple[str, list[float]]]:
    """Return the medians of each of `IMPLEMENTATIONS`, in units of time and memory."""

    def each(figure: Callable[[dict[str, Any]], float]) -> list[float]:
        return [
            statistics.median(figure(results[name]) for results in rounds)
            for name in IMPLEMENTATIONS
        ]

    return [
        ("decode, batch 1, tokens/s", each(lambda results: 1 / results["decode_1"])),
        (
            f"decode, batch {workload.rows}, tokens/s",
            each(lambda results: workload.rows / results["decode_8"]),
        ),
        (
            f"prefill {workload.prompt:,}, tokens/s",
            each(lambda results: workload.prompt / results["prefill"]),
        ),
        (
            f"prefill {workload.long:,}, tokens/s",
            each(lambda results: workload.long / results["prefill_long"]),
        ),
        ("start to first token, s", each(lambda results: results["first_token"])),
        ("memory at the first token, GB", each(lambda results: results["first_peak_bytes"] / 1e9)),
        ("peak memory, GB", each(lambda results: results["peak_bytes"] / 1e9)),
    ]
