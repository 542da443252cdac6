"""Simulate expert stores on recorded routing, or choose the experts that a store keeps.

--record-routing of a command that runs a model writes the routing. `simulate` says what a store
would have held and read with each policy and budget; `pin` writes the most used experts, for
`--expert-cache-policy static:FILE`.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.engine.memory_size import memory_size
from mimo_v2_flash.expert_store.routing_plots import draw_heat_map, draw_hit_curves
from mimo_v2_flash.expert_store.routing_statistics import RoutingStatistics, routing_statistics
from mimo_v2_flash.expert_store.routing_trace import RoutingTrace, read_trace
from mimo_v2_flash.expert_store.simulator import (
    POOLS,
    SIMULATED,
    PhaseCounts,
    Simulation,
    least_capacity,
    most_used,
    simulate,
)
from mimo_v2_flash.parallel import ALONE

from .console import amount, console, progress, table
from .entry import CommandError
from .option_types import byte_size, output_file
from .result import Result

__all__ = ["add_arguments", "run"]

PARTS = (0.02, 0.05, 0.125, 0.25, 0.5)  # of all experts' bytes, without --capacity
NOT_MIMO = "This routing is not MiMo-V2-Flash's: the model has other sizes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "action", choices=("simulate", "pin"), help="What to do with the recorded routing."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="Recorded routing.")
    parser.add_argument(
        "--capacity",
        action="append",
        type=byte_size,
        metavar="SIZE",
        help="Budget of a store: bytes, 8GiB, 400kB; may be repeated to simulate several (default: "
        "2, 5, 12.5, 25 and 50%% of all experts).",
    )
    parser.add_argument(
        "--bandwidth",
        type=byte_size,
        metavar="SIZE",
        help="Bytes that the disk reads in a second, by which seconds per token are estimated "
        "(default: none are).",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_file,
        metavar="FILE",
        help="File that `pin` writes (no default).",
    )
    for option, what in (("--plot", "hits over the budget"), ("--heat-map", "choices of experts")):
        parser.add_argument(
            option,
            type=output_file,
            metavar="FILE",
            help=f"Plot of {what} to draw, .png or .svg; it needs matplotlib (default: none).",
        )


def run(
    action: str,
    file: Path,
    capacity: list[int | str] | None,
    bandwidth: int | str | None,
    output: Path | None,
    plot: Path | None,
    heat_map: Path | None,
) -> Result:
    """Simulate stores, or write a set of experts; return the numbers."""
    if (action == "pin") != (output is not None):
        raise CommandError("--output is for pin, which needs it")
    capacities = [memory_size("--capacity", size, ALONE) for size in capacity or ()]
    trace = read_trace(file)
    if not trace.calls:
        raise ValueError(f"{file}: no call is recorded")
    if output is not None:
        return _pin(trace, file, capacities, output)
    rate = memory_size("--bandwidth", bandwidth, ALONE) if bandwidth is not None else None
    statistics, simulations = routing_statistics(trace), _simulate(trace, capacities)
    _report(trace, file, statistics, simulations, rate)
    if plot:
        whole = int(trace.header.sizes.sum())
        draw_hit_curves(simulations, whole, _title(trace, file), plot)
    if heat_map:
        draw_heat_map(trace, _title(trace, file), heat_map)
    numbers = {"file": file, **trace.header._asdict(), **statistics._asdict()}
    del numbers["expert_bytes"]
    numbers["all_experts_bytes"] = int(trace.header.sizes.sum())
    return Result(numbers | {"simulations": [_numbers(each, rate) for each in simulations]})


def _title(trace: RoutingTrace, file: Path) -> str:
    title = f"{file.name}: {trace.header.model}"
    return title if trace.header.is_mimo else f"{title}\n{NOT_MIMO}"


def _simulate(trace: RoutingTrace, capacities: list[int]) -> list[Simulation]:
    """Return what every policy does in each pool and budget; pools too small for one are left out.

    Raises
    ------
    ValueError
        If a budget has no room for an expert.
    """
    whole, least = int(trace.header.sizes.sum()), least_capacity(trace, POOLS[0])
    chosen = capacities or sorted({max(least, int(part * whole)) for part in PARTS})
    if small := [size for size in chosen if size < least]:
        raise ValueError(f"--capacity {small[0]:,}: expected room for an expert, {least:,} bytes")
    stores = [
        (policy, size, pool)
        for size in chosen
        for pool in POOLS
        for policy in SIMULATED
        if size >= least_capacity(trace, pool)
    ]
    simulations = []
    with progress("simulated", total=len(stores), unit="stores") as advance:
        for store in stores:
            simulations.append(simulate(trace, *store))
            advance(1)
    return simulations


def _report(
    trace: RoutingTrace,
    file: Path,
    statistics: RoutingStatistics,
    simulations: list[Simulation],
    rate: int | None,
) -> None:
    """Print what the routing is of, and a row for each store."""
    out = console()
    if not trace.header.is_mimo:
        out.print(NOT_MIMO)
    rows = [
        ("model", trace.header.model),
        ("tokens", f"{statistics.tokens:,.0f}"),
        ("calls of layers, decode", f"{statistics.calls:,}, {statistics.decode_calls:,}"),
        ("experts chosen", f"{statistics.chosen_experts:,} of {statistics.experts:,}"),
        ("reuse, decode", _percent(statistics.reuse)),
        ("choices of the top tenth", _percent(statistics.top_tenth)),
        ("all experts", amount(int(trace.header.sizes.sum()))),
    ]
    out.print(table(f"{file}", ("what",), ("amount",), rows))
    right = ("hits", "prefill", "decode", "second half", "cold", "read per token")
    columns = ("pool", "policy"), (*right, *(["s per token"] if rate else []))
    for capacity in dict.fromkeys(each.capacity for each in simulations):
        stores = (_row(each, rate) for each in simulations if each.capacity == capacity)
        out.print(table(f"stores of {amount(capacity)}", *columns, stores))


def _row(each: Simulation, rate: int | None) -> tuple[str, ...]:
    counts = each.total, each.prefill, each.decode, each.second_half
    read = each.total.read_bytes / each.total.tokens
    rates = (_percent(phase.hit_rate) for phase in counts)
    row = (each.pool, each.policy, *rates, f"{each.total.cold_misses:,}", amount(round(read)))
    return (*row, f"{read / rate:.3g}") if rate else row


def _percent(part: float) -> str:
    return "none" if math.isnan(part) else f"{part:.1%}"


def _numbers(each: Simulation, rate: int | None) -> dict[str, Any]:
    phases = {"total": each.total, "prefill": each.prefill, "decode": each.decode}
    phases |= {"second_half": each.second_half}
    numbers: dict[str, Any] = {"policy": each.policy, "pool": each.pool}
    numbers |= {"capacity_bytes": each.capacity}
    return numbers | {name: _phase(phase, rate) for name, phase in phases.items()}


def _phase(phase: PhaseCounts, rate: int | None) -> dict[str, Any]:
    per_token = phase.read_bytes / phase.tokens if phase.tokens else None
    numbers = phase._asdict() | {"hit_rate": phase.hit_rate, "read_bytes_per_token": per_token}
    seconds = per_token / rate if rate and per_token is not None else None
    return numbers | {"seconds_per_token": seconds}


def _pin(trace: RoutingTrace, file: Path, capacities: list[int], output: Path) -> Result:
    """Write the most used experts that fit into a budget, with room for a token's others."""
    if len(capacities) != 1:
        raise CommandError("pin needs one --capacity")
    chosen = most_used(trace.calls, trace.header.sizes, capacities[0])
    layers = {number: list[int]() for number in trace.header.layers}
    for layer, expert in sorted(chosen):
        layers[trace.header.layers[layer]].append(expert)
    held = sum(int(trace.header.sizes[key]) for key in chosen)
    numbers = {"model": trace.header.model, "routing": file.name, "is_mimo": trace.header.is_mimo}
    numbers |= {"capacity_bytes": capacities[0], "experts_bytes": held, "experts": layers}
    with atomic_write(output) as partial:
        partial.write_text(json.dumps(numbers) + "\n")
    out = console()
    if not trace.header.is_mimo:
        out.print(NOT_MIMO)
    out.print(f"{len(chosen):,} experts, {amount(held)}, are in {output}")
    return Result(numbers | {"output": output})
