"""A ledger as tables, as JSON, and as a plot."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.costs import trainium2

from .console import amount, console, table
from .deployment import Deployment
from .ledger import Ledger, LedgerEntry, StepTime
from .parallel_options import parallel_sizes
from .roofline import draw

__all__ = ["described", "prompt_seconds", "report"]

WIDTH = 140  # a line of the table, where there is no terminal to be asked
NUMBERS = (
    *("calls", "instr.", "GFLOP", "x", "weights", "x", "cache", "x", "activ.", "sent"),
    *("largest", "us"),
)
NOTE = """\
x: times the least possible. Activ.: inputs and outputs. Largest: of all temporaries.
us: projected for Trainium2, not measured: memory or matmuls, what takes longer, and exchanges.\
"""


def report(
    deployment: Deployment, ledger: Ledger, *, file: Path | None = None, plot: Path | None = None
) -> None:
    """Print the programs of each kind of step at its fullest, and the time of every step.

    All numbers are written into `file`, and the programs are drawn into `plot`, if they are given.
    """
    out = console()
    out.width = max(out.width, WIDTH)
    out.print(described(deployment))
    fullest = {step.tokens: step for step in ledger.steps}
    for step in fullest.values():
        out.print(_programs(ledger, step))
    out.print(NOTE)
    out.print(_steps(ledger, deployment))
    out.print(
        f"A prompt of {deployment.context} tokens, in chunks of {deployment.chunk}: projected "
        f"{1e3 * prompt_seconds(ledger, deployment):.0f} ms"
    )
    if file is not None:
        file.write_text(json.dumps(_numbers(deployment, ledger), indent=1) + "\n")
    if plot is not None:
        draw(ledger, list(fullest.values()), described(deployment), plot)


def described(deployment: Deployment) -> str:
    """Return a deployment in one line."""
    plan = deployment.plan
    return (
        f"{plan.world_size} ranks: experts on {plan.expert_parallel_size}, heads on {plan.tensor_parallel_size}, "
        f"{deployment.batch_size} sequences of {deployment.context} tokens in "
        f"{plan.data_parallel_size} shares; weights {deployment.weight_dtype}"
    )


def prompt_seconds(ledger: Ledger, deployment: Deployment) -> float:
    """Return the projected time until a whole context is in the cache, chunk after chunk."""
    steps = [step for step in ledger.steps if step.tokens == deployment.chunk]
    starts = range(0, deployment.context, deployment.chunk)
    looked_at = [min((s for s in steps if s.kv_length >= start), key=_filled) for start in starts]
    return sum(step.bound for step in looked_at)


def _filled(step: StepTime) -> int:
    return step.kv_length


def _programs(ledger: Ledger, step: StepTime) -> Any:
    """Return the table of a step's programs, each once."""
    what = f"{step.tokens} token{'s' * (step.tokens > 1)} of each sequence, {step.kv_length} filled"
    made = table(f"A rank's programs: {what}", ("program",), NUMBERS)
    for name, calls in step.calls.items():
        made.add_row(name.split(",")[0], str(calls), *_cells(ledger.entries[name]))
    return made


def _cells(entry: LedgerEntry) -> list[str]:
    cost, lower_bound = entry.cost, entry.lower_bound
    read = entry.cache - sum(size for path, size in cost.written.items() if "cache" in path)
    return [
        str(cost.instructions),
        f"{cost.operations / 1e9:.2f}" if cost.operations else "",
        _times(cost.operations, lower_bound.operations),
        _amount(entry.weights),
        _times(entry.weights, lower_bound.weights),
        _amount(entry.cache),
        _times(read, lower_bound.cache),
        _amount(entry.activations),
        _amount(entry.sent),
        _amount(cost.largest_temporary),
        f"{entry.seconds.bound * 1e6:.0f}",
    ]


def _amount(count: int) -> str:
    return amount(count) if count else ""


def _times(count: int, lower_bound: int) -> str:
    return f"{count / lower_bound:.1f}" if lower_bound else ""


def _steps(ledger: Ledger, deployment: Deployment) -> Any:
    """Return the table of steps, and of the prompt that they fill a sequence with."""
    each = f"ms, each operation {1e6 * trainium2.OPERATION_SECONDS:.0f} us"
    numbers = ("filled", "least ms", "ms", "tokens/s", each)
    made = table("Every step, projected for Trainium2", ("tokens of each sequence",), numbers)
    for step in ledger.steps:
        rate = step.tokens * deployment.batch_size / step.bound
        times = step.lower_bound, step.bound, step.with_operations
        lower_bound, bound, whole = (f"{1e3 * time:.2f}" for time in times)
        made.add_row(
            str(step.tokens), str(step.kv_length), lower_bound, bound, f"{rate:.0f}", whole
        )
    return made


def _numbers(deployment: Deployment, ledger: Ledger) -> dict[str, Any]:
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
        "programs": {name: _of_entry(entry) for name, entry in ledger.entries.items()},
        "prompt_seconds": prompt_seconds(ledger, deployment),
        "steps": list(map(_of_step, ledger.steps)),
    }


def _of_step(step: StepTime) -> dict[str, Any]:
    return {
        "tokens": step.tokens,
        "filled": step.kv_length,
        "calls": step.calls,
        "bound": step.bound,
        "with_operations": step.with_operations,
        "least": step.lower_bound,
    }


def _of_entry(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "instructions": entry.cost.instructions,
        "operations": entry.cost.operations,
        "weights": entry.weights,
        "cache": entry.cache,
        "activations": entry.activations,
        "temporaries": len(entry.cost.temporaries),
        "largest_temporary": entry.cost.largest_temporary,
        "exchanges": [exchange._asdict() for exchange in entry.cost.collectives],
        "least": entry.lower_bound._asdict(),
        "seconds": {
            "memory": entry.seconds.memory,
            "matmuls": entry.seconds.matmuls,
            "exchanges": entry.seconds.collectives,
            "operations": entry.seconds.operations,
            "bound": entry.seconds.bound,
        },
    }
