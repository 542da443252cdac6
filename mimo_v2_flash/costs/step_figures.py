"""Three figures of a step on Trainium2: the least possible, the bound with launches, the expected.

The least is every matmul at full tiles, or every byte of weights and cache once: no rank waits for
another. The bound adds what the programs have: padding, collectives at the least latency, and a
launch each. Expected is the same without launches, at the efficiencies that others reached in steps
of one program, with the launches that come on top. All are projected, none is measured.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.layers.program_size import machine_instructions

from . import trainium2
from .deployment import Deployment
from .efficiency import Efficiency, published_efficiency
from .ledger import Ledger, LedgerEntry, StepTime, prompt_steps

__all__ = [
    "ACCEPTED",
    "StepFigures",
    "decode_figures",
    "decode_instructions",
    "draft_figures",
    "prefill_figures",
]

ACCEPTED = 2.8
"""Tokens of a step with three drafts, the least that the model's report has (Table 10)."""


class StepFigures(NamedTuple):
    """What steps take, in seconds.

    Attributes
    ----------
    tokens
        Tokens that all sequences have of them.
    launches
        Calls of programs.
    exchanges, layer_exchanges
        Collectives; those of a layer in a pass, on average.
    least
        Lower bound.
    roofline
        What the programs take at least, without launches.
    operations
        The least overhead of all operations.
    efficiency
        The published shares of `roofline`.
    """

    tokens: float
    launches: int
    exchanges: int
    layer_exchanges: float
    least: float
    roofline: float
    operations: float
    efficiency: Efficiency

    @property
    def bound(self) -> float:
        """The roofline and quick launches."""
        return self.roofline + self.launches * trainium2.LAUNCH_SECONDS

    @property
    def slow_bound(self) -> float:
        """The roofline and launches with the runtime's barrier."""
        return self.roofline + self.launches * trainium2.SLOW_LAUNCH_SECONDS

    @property
    def mean_exchanges(self) -> float:
        """What collectives add at their mean latency."""
        return self.exchanges * (trainium2.MEAN_EXCHANGE_SECONDS - trainium2.EXCHANGE_SECONDS)

    @property
    def expected(self) -> tuple[float, float]:
        """The quickest and the slowest that published efficiencies and launches make of it."""
        more = self.launches - 1  # those that were measured had one
        return (
            self.roofline / self.efficiency.most + more * trainium2.LAUNCH_SECONDS,
            self.roofline / self.efficiency.least + more * trainium2.SLOW_LAUNCH_SECONDS,
        )

    @property
    def tokens_per_second(self) -> float:
        """Tokens of all sequences, by the bound."""
        return self.tokens / self.bound


def decode_figures(ledger: Ledger, deployment: Deployment) -> StepFigures:
    """Return the figures of one token of every sequence, at the longest KV length."""
    return _figures(ledger, [_longest(ledger, 1)], deployment, deployment.batch_size)


def draft_figures(ledger: Ledger, deployment: Deployment) -> StepFigures | None:
    """Return the figures of a step with the most drafts, and of drafting; None with fewer drafts.

    A sequence has `ACCEPTED` tokens of it: no number is published for fewer drafts.
    """
    if ledger.drafting is None or deployment.draft_tokens < MAX_DRAFT_TOKENS:
        return None
    step = _longest(ledger, 1 + MAX_DRAFT_TOKENS)
    tokens = ACCEPTED * deployment.batch_size
    return _figures(ledger, [step, ledger.drafting], deployment, tokens)


def prefill_figures(ledger: Ledger, deployment: Deployment) -> StepFigures:
    """Return the figures of prompts as long as the context, chunk after chunk."""
    tokens = deployment.batch_size * deployment.context
    return _figures(ledger, prompt_steps(ledger, deployment), deployment, tokens)


def decode_instructions(ledger: Ledger, deployment: Deployment) -> int:
    """Return the estimated machine instructions of the largest program of a decode step."""
    most = max(ledger.entries[name].layers for name in _longest(ledger, 1).calls)
    return machine_instructions(most, deployment.local_rows * deployment.plan.data_parallel_size)


def _longest(ledger: Ledger, tokens: int) -> StepTime:
    """Return the step of so many tokens at the longest KV length."""
    (*_, step) = (step for step in ledger.steps if step.tokens == tokens)
    return step


def _figures(
    ledger: Ledger, steps: Sequence[StepTime], deployment: Deployment, tokens: float
) -> StepFigures:
    passes = [step for step in steps if step is not ledger.drafting]
    launches = [call for step in steps for call in _called(ledger, step)]
    of_layers = [
        count * len(entry.cost.collectives)
        for step in passes
        for entry, count in _called(ledger, step)
        if entry.layers
    ]
    return StepFigures(
        tokens,
        launches=sum(count for _, count in launches),
        exchanges=sum(count * len(entry.cost.collectives) for entry, count in launches),
        layer_exchanges=sum(of_layers) / (len(passes) * deployment.config.num_hidden_layers),
        least=sum(step.lower_bound for step in steps),
        roofline=sum(step.bound for step in steps),
        operations=sum(step.with_operations - step.bound for step in steps),
        efficiency=published_efficiency(deployment.weight_dtype),
    )


def _called(ledger: Ledger, step: StepTime) -> list[tuple[LedgerEntry, int]]:
    return [(ledger.entries[name], count) for name, count in step.calls.items()]
