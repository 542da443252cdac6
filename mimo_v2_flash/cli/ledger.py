"""The ledger of a deployment: what every program costs, the least possible, the time projected."""

from collections.abc import Mapping
from typing import NamedTuple

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.costs.lower_bound import LowerBound, ProgramShape, lower_bound
from mimo_v2_flash.costs.projection import RooflineTime, lower_bound_seconds, roofline_time
from mimo_v2_flash.execution.cost_model import cost_of
from mimo_v2_flash.execution.program_cost import ProgramCost
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.execution.pytree import tree_arrays

from .deployment import Deployment
from .program_names import layer_parts
from .step_programs import StepCalls, StepPrograms, step_programs

__all__ = ["Ledger", "LedgerEntry", "StepTime", "ledger", "price"]


class LedgerEntry(NamedTuple):
    """A program's line.

    Attributes
    ----------
    cost, least, seconds
        What it takes, the least possible, and how long it would take once.
    weights, cache, activations
        Bytes that move: weights read, cache read and written, other inputs and outputs.
    """

    cost: ProgramCost
    lower_bound: LowerBound
    seconds: RooflineTime
    weights: int
    cache: int
    activations: int

    @property
    def sent(self) -> int:
        """Bytes that a rank sends."""
        return sum(exchange.sent for exchange in self.cost.collectives)


class StepTime(NamedTuple):
    """A step: its sizes, its programs with how often each is called, and its time.

    Attributes
    ----------
    bound, with_operations, least
        Seconds, projected: of what its programs take, with what each operation takes at least, and
        of the least possible.
    """

    tokens: int
    kv_length: int
    calls: dict[str, int]
    bound: float
    with_operations: float
    lower_bound: float


class Ledger(NamedTuple):
    """Every program by its name, and every step."""

    entries: dict[str, LedgerEntry]
    steps: tuple[StepTime, ...]


def ledger(deployment: Deployment) -> Ledger:
    """Return the ledger, and the errors, of `step_programs`."""
    return price(step_programs(deployment))


def price(found: StepPrograms) -> Ledger:
    """Return the ledger of programs that have been found."""
    entries = {name: _entry(program, found.kinds[name]) for name, program in found.programs.items()}
    return Ledger(entries, tuple(_timed(step, entries) for step in found.steps))


def _timed(step: StepCalls, entries: Mapping[str, LedgerEntry]) -> StepTime:
    called = [(entries[name], count) for name, count in step.calls.items()]
    return StepTime(
        *step,
        bound=sum(entry.seconds.bound * count for entry, count in called),
        with_operations=sum(entry.seconds.with_operations * count for entry, count in called),
        lower_bound=sum(lower_bound_seconds(entry.lower_bound) * count for entry, count in called),
    )


def _entry(program: RecordedProgram, kinds: Mapping[str, str]) -> LedgerEntry:
    given = tree_arrays(program.arguments)
    inputs = {
        kind: {path: array for path, array in given.items() if kinds[path] == kind}
        for kind in ("weights", "cache", "activations")
    }
    cost = cost_of(program.traced.module, program.traced.inputs, set(inputs["weights"]))
    moved = {
        kind: sum(cost.read[path] + cost.written.get(path, 0) for path in paths)
        for kind, paths in inputs.items()
    }
    possible = lower_bound(inputs["weights"], inputs["cache"], _sizes(program))
    moved["activations"] += cost.returned
    return LedgerEntry(cost, possible, roofline_time(cost), **moved)


def _sizes(program: RecordedProgram) -> ProgramShape:
    given, (attention, network) = program.arguments, layer_parts(program.function)
    rows, tokens = next(iter(tree_arrays(given).values())).shape[:2]
    if "row_N" in given:  # the head, which sees these alone
        rows, tokens = len(given["row_N"]), 1
    kv_length, local_tokens = given.get("kv_length", 0), given.get("local_tokens", rows * tokens)
    window = attention.spec.window if attention else NO_WINDOW
    return ProgramShape(
        rows, tokens, local_tokens, kv_length, window, getattr(network, "experts_per_token", 0)
    )
