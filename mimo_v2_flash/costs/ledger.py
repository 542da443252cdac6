"""Cost ledger of a deployment: every program's cost, lower bound and projected time."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from mimo_v2_flash.config import NO_WINDOW
from mimo_v2_flash.execution.cost_model import analyze_cost
from mimo_v2_flash.execution.program_cost import ProgramCost
from mimo_v2_flash.execution.program_recorder import RecordedProgram
from mimo_v2_flash.execution.pytree import tree_arrays, tree_leaves
from mimo_v2_flash.quantization import QuantizedTensor

from .deployment import Deployment
from .lower_bound import LowerBound, ProgramShape, lower_bound
from .program_names import ProgramLayer, program_layers
from .projection import RooflineTime, lower_bound_seconds, roofline_time
from .step_programs import StepCalls, StepPrograms, StepSize, step_programs, step_sizes

__all__ = ["Ledger", "LedgerEntry", "StepTime", "ledger", "price", "prompt_seconds", "prompt_steps"]


class LedgerEntry(NamedTuple):
    """The costs of one program.

    Attributes
    ----------
    cost
        Operations and bytes of one call.
    lower_bound
        The least that the call must compute and read.
    seconds
        Projected time of one call.
    weights, cache, activations
        Bytes that move: weights read, cache read and written, other inputs and outputs.
    layers
        How many decoder layers, or blocks of one, the program is; 0 if it is something else.
    """

    cost: ProgramCost
    lower_bound: LowerBound
    seconds: RooflineTime
    weights: int
    cache: int
    activations: int
    layers: int = 0

    @property
    def sent(self) -> int:
        """Bytes that a rank sends."""
        return sum(collective.sent for collective in self.cost.collectives)


class StepTime(NamedTuple):
    """A step: its sizes, how often it calls each program, and its projected time.

    Attributes
    ----------
    bound
        Seconds of all program calls.
    with_operations
        Seconds of all program calls with the least overhead of every operation added.
    lower_bound
        Seconds of the lower bounds of all program calls.
    """

    tokens: int
    kv_length: int
    calls: dict[str, int]
    bound: float
    with_operations: float
    lower_bound: float


class Ledger(NamedTuple):
    """The entries of all programs, by name, and the times of all steps, and of drafting."""

    entries: dict[str, LedgerEntry]
    steps: tuple[StepTime, ...]
    drafting: StepTime | None = None

    def read(self, step: StepTime) -> int:
        """Return the bytes of weights and cache that a step moves."""
        entries = ((self.entries[name], count) for name, count in step.calls.items())
        return sum(count * (entry.weights + entry.cache) for entry, count in entries)


def ledger(
    deployment: Deployment, sizes: Callable[[Deployment], Iterable[StepSize]] = step_sizes
) -> Ledger:
    """Return the ledger of a deployment; arguments and errors are those of `step_programs`."""
    return price(step_programs(deployment, sizes))


def price(recorded: StepPrograms) -> Ledger:
    """Return the ledger of recorded programs."""
    entries = {
        name: _entry(program, recorded.kinds[name]) for name, program in recorded.programs.items()
    }
    drafting = recorded.drafting and _timed(recorded.drafting, entries)
    return Ledger(entries, tuple(_timed(step, entries) for step in recorded.steps), drafting)


def prompt_steps(ledger: Ledger, deployment: Deployment) -> list[StepTime]:
    """Return the steps of a prefill of the whole context, chunk after chunk."""
    steps = [step for step in ledger.steps if step.tokens == deployment.chunk]
    starts = range(0, deployment.context, deployment.chunk)
    length = attrgetter("kv_length")
    return [
        min((step for step in steps if step.kv_length >= start), key=length) for start in starts
    ]


def prompt_seconds(ledger: Ledger, deployment: Deployment) -> float:
    """Return the projected time of a prefill of the whole context."""
    return sum(step.bound for step in prompt_steps(ledger, deployment))


def _timed(step: StepCalls, entries: Mapping[str, LedgerEntry]) -> StepTime:
    called = [(entries[name], count) for name, count in step.calls.items()]
    return StepTime(
        *step,
        bound=sum(entry.seconds.bound * count for entry, count in called),
        with_operations=sum(entry.seconds.with_operations * count for entry, count in called),
        lower_bound=sum(lower_bound_seconds(entry.lower_bound) * count for entry, count in called),
    )


def _entry(program: RecordedProgram, kinds: Mapping[str, str]) -> LedgerEntry:
    arrays = tree_arrays(program.arguments)
    inputs = {
        kind: {path: array for path, array in arrays.items() if kinds[path] == kind}
        for kind in ("weights", "cache", "activations")
    }
    cost = analyze_cost(program.traced.module, program.traced.inputs, set(inputs["weights"]))
    moved = {
        kind: sum(cost.read[path] + cost.written.get(path, 0) for path in paths)
        for kind, paths in inputs.items()
    }
    leaves = tree_leaves(program.arguments, leaf=QuantizedTensor)
    weights = {p: w for p, w in leaves.items() if tree_arrays(w, p).keys() & inputs["weights"]}
    layers = program_layers(program)
    bounds = (
        lower_bound(
            _starting_with(weights, layer.prefixes),
            _starting_with(inputs["cache"], layer.prefixes),
            _shape(program, layer),
        )
        for layer in layers
    )
    bound = LowerBound(*map(sum, zip(*bounds, strict=True)))
    moved["activations"] += cost.returned
    count = sum(layer.attention is not None or layer.feed_forward is not None for layer in layers)
    return LedgerEntry(cost, bound, roofline_time(cost), **moved, layers=count)


def _starting_with(arrays: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {path: array for path, array in arrays.items() if path.startswith(prefixes)}


def _shape(program: RecordedProgram, layer: ProgramLayer) -> ProgramShape:
    arguments, run, network = program.arguments, layer.run, layer.feed_forward
    rows, tokens = next(iter(tree_arrays(arguments).values())).shape[0], 1
    if "row_N" in arguments:  # the head computes the logits of these tokens only
        rows = len(arguments["row_N"])
    if run:
        rows, tokens = run.rows, run.tokens
    ranks = network.tensor_group.size if network else 1  # each dispatches a part of the tokens
    return ProgramShape(
        rows,
        tokens,
        local_tokens=-(-rows * tokens // ranks),
        kv_length=run.kv_length if run else 0,
        window=layer.attention.spec.window if layer.attention else NO_WINDOW,
        experts_per_token=getattr(network, "experts_per_token", 0),
    )
