"""Report of the three figures of a step: tables, what they rest on, and plans compared."""

from collections.abc import Mapping
from typing import Any

from mimo_v2_flash.costs import trainium2
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import Ledger
from mimo_v2_flash.costs.plan_comparison import PlanFigures, best_plan
from mimo_v2_flash.costs.step_figures import (
    ACCEPTED,
    StepFigures,
    decode_figures,
    decode_instructions,
    draft_figures,
    prefill_figures,
)
from mimo_v2_flash.layers.program_size import MOST_INSTRUCTIONS

from .console import amount, console, table
from .parallel_options import parallel_sizes
from .result import Result

__all__ = ["all_figure_numbers", "print_figures", "report_plans"]

WIDTH = 140  # columns of the tables, unless a terminal has more
COLUMNS = (
    *("launches", "exch./layer", "least, ms", "bound, ms", "slow bound, ms"),
    *("+ mean exch.", "+ operations", "expected, ms", "tokens/s"),
)
NOTE = """\
least: bytes or matmuls, once. bound: of the programs, and {quick:.1f} ms to launch each.
slow bound: {slow:.0f} ms each, with the runtime's barrier. + mean exch.: what collectives add at
their mean of {mean:.0f} us. + operations: at {each:.0f} us each. tokens/s: by the bound.
expected: {row} have reached {least:.0%} to {most:.0%} of such bounds.\
"""


def print_figures(out: Any, ledger: Ledger, deployment: Deployment) -> None:
    """Print the figures of a deployment's steps, and how large its largest program is."""
    drafts = draft_figures(ledger, deployment)
    figures = {"a token": decode_figures(ledger, deployment)}
    figures |= {f"drafts, x {ACCEPTED}": drafts} if drafts else {}
    figures |= {"prompts": prefill_figures(ledger, deployment)}
    out.print(_table("What steps take, projected for Trainium2", "step", figures))
    out.print(_note(figures["a token"]))
    out.print(
        f"The largest program of a decode step: {decode_instructions(ledger, deployment):,} "
        f"machine instructions, estimated; neuronx-cc accepts {MOST_INSTRUCTIONS:,}"
    )


def all_figure_numbers(ledger: Ledger, deployment: Deployment) -> dict[str, Any]:
    """Return the figures of a deployment's steps by the keys of `--json`, which stay."""
    drafts = draft_figures(ledger, deployment)
    instructions = {"machine_instructions": decode_instructions(ledger, deployment)}
    return {
        "decode": _numbers(decode_figures(ledger, deployment)) | instructions,
        "decode_with_drafts": drafts and _numbers(drafts) | {"accepted_tokens": ACCEPTED},
        "prefill": _numbers(prefill_figures(ledger, deployment)),
    }


def report_plans(compared: list[PlanFigures]) -> Result:
    """Print the decode step of each plan and name the best; return all numbers.

    Raises
    ------
    ValueError
        If no plan fits into the memory of its ranks.
    """
    out, best = console(), best_plan(compared)
    out.width = max(out.width, WIDTH)
    figures = {_name(each): each.decode for each in compared}
    out.print(_table("A token of every sequence, projected for Trainium2", "plan", figures))
    out.print(_note(best.decode))
    for each in compared:
        verdict = "it fits" if each.fits else "it does not fit"
        ranks = f"{_name(each)}: {each.plan.world_size} ranks"
        out.print(f"{ranks}, {amount(each.memory)} on the fullest, {verdict}")
    out.print(f"Best by the bound: {_name(best)}, {best.decode.tokens_per_second:.0f} tokens/s")
    plans = [
        {
            "plan": parallel_sizes(each.plan),
            "memory": each.memory,
            "fits": each.fits,
            "decode": _numbers(each.decode),
        }
        for each in compared
    ]
    return Result({"plans": plans, "best": parallel_sizes(best.plan)})


def _table(title: str, left: str, figures: Mapping[str, StepFigures]) -> Any:
    rows = ((name, *_cells(each)) for name, each in figures.items())
    return table(title, (left,), COLUMNS, rows)


def _note(figures: StepFigures) -> str:
    """Return what the columns are, and what they rest on."""
    return NOTE.format(
        quick=1e3 * trainium2.LAUNCH_SECONDS,
        slow=1e3 * trainium2.SLOW_LAUNCH_SECONDS,
        mean=1e6 * trainium2.MEAN_EXCHANGE_SECONDS,
        each=1e6 * trainium2.OPERATION_SECONDS,
        **figures.efficiency._asdict(),
    )


def _cells(figures: StepFigures) -> tuple[str, ...]:
    seconds = (figures.least, figures.bound, figures.slow_bound)
    quickest, slowest = figures.expected
    return (
        str(figures.launches),
        f"{figures.layer_exchanges:.1f}",
        *(f"{1e3 * each:.2f}" for each in (*seconds, figures.mean_exchanges, figures.operations)),
        f"{1e3 * quickest:.0f} to {1e3 * slowest:.0f}",
        f"{figures.tokens_per_second:.0f}",
    )


def _numbers(figures: StepFigures) -> dict[str, Any]:
    return {
        "launches": figures.launches,
        "exchanges_per_layer": figures.layer_exchanges,
        "least_ms": 1e3 * figures.least,
        "bound_ms": 1e3 * figures.bound,
        "bound_slow_ms": 1e3 * figures.slow_bound,
        "mean_exchanges_ms": 1e3 * figures.mean_exchanges,
        "operations_ms": 1e3 * figures.operations,
        "expected_ms": [1e3 * seconds for seconds in figures.expected],
        "tokens_per_second": figures.tokens_per_second,
        "efficiency": figures.efficiency._asdict(),
    }


def _name(each: PlanFigures) -> str:
    return f"EP{each.plan.expert_parallel_size} TP{each.plan.tensor_parallel_size}"
