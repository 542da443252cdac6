"""Report of a cost ledger as tables, as JSON, and as a roofline plot."""

from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.costs import trainium2
from mimo_v2_flash.costs.deployment import Deployment
from mimo_v2_flash.costs.ledger import Ledger, LedgerEntry, StepTime, prompt_seconds
from mimo_v2_flash.costs.roofline import draw

from .console import amount, console, table
from .figures_report import all_figure_numbers, print_figures
from .parallel_options import parallel_sizes
from .result import Result

__all__ = ["described", "report"]

WIDTH = 140  # columns of the table, unless a terminal has more
NUMBERS = (
    *("calls", "instr.", "GFLOP", "x", "weights", "x", "cache", "x", "activ.", "sent"),
    *("largest", "us"),
)
NOTE = """\
x: times the lower bound. activ.: inputs and outputs. sent: by collectives. largest: of temporaries.
us: projected for Trainium2, not measured: the longer of memory and matmuls, plus collectives.\
"""


def report(deployment: Deployment, ledger: Ledger, *, plot: Path | None = None) -> Result:
    """Print the programs of each kind of step at its longest, and the time of every step.

    The roofline is drawn into `plot`, if it is set; all numbers are returned.
    """
    out = console()
    out.width = max(out.width, WIDTH)
    out.print(described(deployment))
    longest = {step.tokens: step for step in ledger.steps}
    for step in longest.values():
        out.print(_programs(ledger, step))
    if ledger.drafting:
        out.print(_programs(ledger, ledger.drafting, f"drafting, {deployment.draft_tokens} tokens"))
    out.print(NOTE)
    out.print(_steps(ledger, deployment))
    if ledger.drafting:
        out.print(_drafting(ledger, ledger.drafting, deployment))
    out.print(
        f"A prompt of {deployment.context} tokens, in chunks of {deployment.chunk}: projected "
        f"{1e3 * prompt_seconds(ledger, deployment):.0f} ms"
    )
    print_figures(out, ledger, deployment)
    if plot is not None:
        draw(ledger, list(longest.values()), described(deployment), plot)
    return Result(_numbers(deployment, ledger))


def described(deployment: Deployment) -> str:
    """Return a deployment in one line."""
    plan = deployment.plan
    return (
        f"{plan.world_size} ranks: expert parallel {plan.expert_parallel_size}, tensor parallel "
        f"{plan.tensor_parallel_size}, data parallel {plan.data_parallel_size}; "
        f"{deployment.batch_size} sequences of {deployment.context} tokens; weights "
        f"{deployment.weight_dtype}"
    )


def _drafting(ledger: Ledger, drafting: StepTime, deployment: Deployment) -> str:
    """Return what drafting costs, beside a step of one token, in one line."""
    (*_, plain) = (step for step in ledger.steps if step.tokens == 1)
    share = ledger.read(drafting) / ledger.read(plain)
    return (
        f"Drafting {deployment.draft_tokens} tokens per sequence: projected "
        f"{_milliseconds(drafting.bound)} ms, and {amount(ledger.read(drafting))} of weights and "
        f"cache, {share:.1%} of a step of one token"
    )


def _programs(ledger: Ledger, step: StepTime, what: str = "") -> Any:
    """Return the table of a step's programs, each once."""
    tokens = f"{step.tokens} token{'s' * (step.tokens > 1)} per sequence"
    title = f"Programs of one rank: {what or tokens}, KV length {step.kv_length}"
    rows = (
        (name.split(",")[0], str(calls), *_cells(ledger.entries[name]))
        for name, calls in step.calls.items()
    )
    return table(title, ("program",), NUMBERS, rows)


def _cells(entry: LedgerEntry) -> list[str]:
    cost, lower_bound = entry.cost, entry.lower_bound
    read = entry.cache - sum(size for path, size in cost.written.items() if "cache" in path)
    return [
        str(cost.instructions),
        f"{cost.operations / 1e9:.2f}" if cost.operations else "",
        _ratio(cost.operations, lower_bound.operations),
        _amount(entry.weights),
        _ratio(entry.weights, lower_bound.weights),
        _amount(entry.cache),
        _ratio(read, lower_bound.cache),
        _amount(entry.activations),
        _amount(entry.sent),
        _amount(cost.largest_temporary),
        f"{entry.seconds.bound * 1e6:.0f}",
    ]


def _amount(count: int) -> str:
    return amount(count) if count else ""


def _ratio(count: int, lower_bound: int) -> str:
    return f"{count / lower_bound:.1f}" if lower_bound else ""


def _steps(ledger: Ledger, deployment: Deployment) -> Any:
    """Return the table of all steps with their projected times."""
    with_overhead = f"ms, {1e6 * trainium2.OPERATION_SECONDS:.0f} us per operation added"
    numbers = ("KV length", "lower bound, ms", "ms", "tokens/s", with_overhead)
    rows = (
        (
            str(step.tokens),
            str(step.kv_length),
            _milliseconds(step.lower_bound),
            _milliseconds(step.bound),
            f"{step.tokens * deployment.batch_size / step.bound:.0f}",
            _milliseconds(step.with_operations),
        )
        for step in ledger.steps
    )
    return table("All steps, projected for Trainium2", ("tokens per sequence",), numbers, rows)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.2f}"


def _numbers(deployment: Deployment, ledger: Ledger) -> dict[str, Any]:
    """Return all numbers by the keys of `--json`, which stay when a field is renamed."""
    return {
        "note": "times in seconds are projected for Trainium2, not measured",
        "constants": {name.lower(): getattr(trainium2, name) for name in trainium2.__all__},
        "plan": parallel_sizes(deployment.plan),
        "batch_size": deployment.batch_size,
        "context": deployment.context,
        "chunk": deployment.chunk,
        "weights": deployment.weight_dtype,
        "cache": np.dtype(deployment.cache_dtype).name,
        "stream": np.dtype(deployment.activation_dtype).name,
        "programs": {name: _entry_numbers(entry) for name, entry in ledger.entries.items()},
        **all_figure_numbers(ledger, deployment),
        "prompt_seconds": prompt_seconds(ledger, deployment),
        "draft_tokens": deployment.draft_tokens,
        "drafting": ledger.drafting and _drafting_numbers(ledger, ledger.drafting),
        "steps": [
            {
                "tokens": step.tokens,
                "filled": step.kv_length,
                "calls": step.calls,
                "bound": step.bound,
                "with_operations": step.with_operations,
                "least": step.lower_bound,
                "moved_bytes": ledger.read(step),
            }
            for step in ledger.steps
        ],
    }


def _drafting_numbers(ledger: Ledger, drafting: StepTime) -> dict[str, Any]:
    return {
        "calls": drafting.calls,
        "bound_seconds": drafting.bound,
        "with_operations_seconds": drafting.with_operations,
        "least_seconds": drafting.lower_bound,
        "moved_bytes": ledger.read(drafting),
    }


def _entry_numbers(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "instructions": entry.cost.instructions,
        "operations": entry.cost.operations,
        "weights": entry.weights,
        "cache": entry.cache,
        "activations": entry.activations,
        "temporaries": len(entry.cost.temporaries),
        "largest_temporary": entry.cost.largest_temporary,
        "exchanges": [collective._asdict() for collective in entry.cost.collectives],
        "least": entry.lower_bound._asdict(),
        "seconds": {
            "memory": entry.seconds.memory,
            "matmuls": entry.seconds.matmuls,
            "exchanges": entry.seconds.collectives,
            "operations": entry.seconds.operations,
            "bound": entry.seconds.bound,
        },
    }
