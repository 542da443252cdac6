"""What the rounds of a run come to: medians of ratios, beside the bars that they are held to."""

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from mimo_v2_flash.config import MiMoConfig

from .measures import ParallelConfig
from .touched import flops_of_prefill

__all__ = ["CONTENDERS", "Round", "Row", "findings", "medians"]

TRANSFORMERS = ("transformers-bfloat16", "transformers-float32")
CONTENDERS = ("ours", *TRANSFORMERS)
TIMED = ("decode_1", "decode_8", "prefill", "prefill_long", "first_token")
Round = dict[str, dict[str, Any]]
"""What each process of a round found, by its name."""


class Row(NamedTuple):
    """A figure of every round, and what its median should be."""

    what: str
    values: list[float]
    bar: float | None = None  # none: for information
    at_most: bool = False
    is_share: bool = False

    @property
    def median(self) -> float:
        """The figure of the run."""
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool:
        """Whether the median is on the right side of the bar, or has none."""
        if self.bar is None:
            return True
        return self.median <= self.bar if self.at_most else self.median >= self.bar

    @property
    def reached(self) -> str:
        """The median, and the least and greatest of the rounds."""
        spread = f"{self._said(min(self.values))} to {self._said(max(self.values))}"
        return f"{self._said(self.median)} ({spread})"

    @property
    def bar_said(self) -> str:
        """The bar, in words."""
        if self.bar is None:
            return ""
        return f"at {'most' if self.at_most else 'least'} {self._said(self.bar)}"

    @property
    def verdict(self) -> str:
        """By how much the bar is reached or missed, in percent of it."""
        if self.bar is None:
            return ""
        beyond = abs(self.median / self.bar - 1)
        return f"{'reached' if self.is_reached else 'missed'}, by {beyond:.0%}"

    def _said(self, value: float) -> str:
        if self.is_share:
            return f"{value:.0%}"
        return f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"


def findings(rounds: list[Round], plan: ParallelConfig, config: MiMoConfig) -> list[Row]:
    """Return every figure that has a bar, then those that have none."""
    figures = [_figures(found, plan, config) for found in rounds]

    def row(what: str, key: str, bar: float | None = None, **kind: bool) -> Row:
        return Row(what, [figure[key] for figure in figures], bar, **kind)

    many, short, long = f"decode, batch {plan.rows}", f"{plan.prompt:,}", f"{plan.long:,}"
    return [
        row("decode, batch 1, times transformers' best", "decode_1", 2.5),
        row(many, "decode_8", 2.0),
        row("decode, batch 1, share of read bandwidth", "decode_1_share", 0.6, is_share=True),
        row(f"prefill {short}", "prefill", 1.2),
        row(f"prefill {long}", "prefill_long", 2.0),
        row("start to first token", "first_token", 3.0),
        row("true head, share of read bandwidth", "head_share", 0.7, is_share=True),
        row("peak memory, of transformers bfloat16's", "memory", 0.6, at_most=True),
        row("sliding layer, a token late against early", "sliding", 1.2, at_most=True),
        row("logits, from transformers float32's", "logits", 1e-4, at_most=True),
        row(f"{many}, share of read bandwidth", "decode_8_share", is_share=True),
        row(f"prefill {short}, share of BLAS", "prefill_share", is_share=True),
        row(f"prefill {long}, share of BLAS", "prefill_long_share", is_share=True),
        row(f"prefill {short}, against float32", "prefill_float32"),
        row(f"prefill {long}, against float32", "prefill_long_float32"),
        row("peak memory, of transformers float32's", "memory_float32"),
        row("logits of bfloat16, from float32's", "logits_bfloat16"),
    ]


def _figures(found: Round, plan: ParallelConfig, config: MiMoConfig) -> dict[str, float]:
    """Return what one round comes to."""
    ours, machine, sliding = found["ours"], found["machine"], found["sliding"]
    narrow, wide = (found[name] for name in TRANSFORMERS)
    rate = machine["flops_per_second"]
    later = [late / early for early, late in (sliding["prefill_token"], sliding["decode_token"])]
    lengths = {"prefill": plan.prompt, "prefill_long": plan.long}
    return {
        **{key: min(narrow[key], wide[key]) / ours[key] for key in TIMED},
        "decode_1_share": _share_of_reading(ours, "decode_1"),
        "decode_8_share": _share_of_reading(ours, "decode_8"),
        "head_share": _share_of_reading(found["head"], "head"),
        **{
            f"{key}_share": flops_of_prefill(config, tokens) / ours[key] / rate
            for key, tokens in lengths.items()
        },
        **{f"{key}_float32": wide[key] / ours[key] for key in lengths},
        "memory": ours["peak_bytes"] / narrow["peak_bytes"],
        "memory_float32": ours["peak_bytes"] / wide["peak_bytes"],
        "sliding": max(later),
        "logits": found["logits"]["ours"],
        "logits_bfloat16": found["logits"]["bfloat16"],
    }


def _share_of_reading(found: dict[str, Any], key: str) -> float:
    """Return how near a work comes to a bare read of its bytes: the faster of before and after."""
    return found[f"{key}_bytes"] / found[key] / max(found[f"{key}_read"])


def medians(rounds: list[Round], plan: ParallelConfig) -> list[tuple[str, list[float]]]:
    """Return what each of `CONTENDERS` reaches in plain units."""

    def each(figure: Callable[[dict[str, Any]], float]) -> list[float]:
        return [statistics.median(figure(found[name]) for found in rounds) for name in CONTENDERS]

    return [
        ("decode, batch 1, tokens/s", each(lambda found: 1 / found["decode_1"])),
        (f"decode, batch {plan.rows}, tokens/s", each(lambda found: plan.rows / found["decode_8"])),
        (f"prefill {plan.prompt:,}, tokens/s", each(lambda found: plan.prompt / found["prefill"])),
        (f"prefill {plan.long:,}, tokens/s", each(lambda found: plan.long / found["prefill_long"])),
        ("start to first token, s", each(lambda found: found["first_token"])),
        ("memory at the first token, GB", each(lambda found: found["first_peak_bytes"] / 1e9)),
        ("peak memory, GB", each(lambda found: found["peak_bytes"] / 1e9)),
    ]
