"""Plans of a machine, this one or one that options describe, and of a number of devices."""

import math
import sys
from pathlib import Path
from typing import Any

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Workload
from mimo_v2_flash.costs.decode_time import DecodeRates
from mimo_v2_flash.costs.parallel_choice import choose_parallel, fewest_devices
from mimo_v2_flash.costs.placement import SMALLER
from mimo_v2_flash.cpu.free_memory import free_memory
from mimo_v2_flash.cpu.thread_count import thread_count
from mimo_v2_flash.machine.decode_rates import measure_decoding
from mimo_v2_flash.machine.disk_rate import measure_disk
from mimo_v2_flash.machine.model_files import weight_files
from mimo_v2_flash.parallel_config import ParallelConfig

from .console import amount, console, progress
from .host_plan import host_weights, plan_host, report_host
from .options import NamedModel
from .plan_report import report
from .prepare import from_ranges
from .result import Result

__all__ = ["plan_fleet", "plan_machine"]


def plan_machine(
    named: NamedModel,
    model: Path,
    workload: Workload,
    memory: int | None = None,
    *,
    bandwidth: int | None = None,
    disk: int | None = None,
    cores: int | None = None,
    ranks: int = 1,
    measure: bool = False,
    isq: str | None = None,
    topology: Path | None = None,
    device_map: str | None = None,
    expert_subset: list[str] | None = None,
) -> Result:
    """Print what a machine can do with a model, and return the numbers.

    The status is 1 if what was asked for does not fit; with a device map, if nothing does.
    """
    request, parallel = IsqRequest.of(isq, topology), ParallelConfig(data_parallel_size=ranks)
    experts = from_ranges(expert_subset) if expert_subset else None
    weights, config = host_weights(model, named, workload.weight_dtype, parallel, experts)
    parallel.check(config)
    memory = free_memory() * 9 // 10 if memory is None else memory
    result = Result({"memory": memory, "fits": False}, 1)
    if device_map is None:
        result = report(config, ParallelConfig(), workload, memory=memory)
    forms = [*SMALLER, *(each.weight.stored for each in weights), *request.forms]
    rates = DecodeRates(bandwidth / ranks, disk and disk / ranks) if bandwidth else None
    if measure:
        rates = _measured(config, model, forms, disk)
        factor = (cores or thread_count().number) / thread_count().number / ranks
        rates = rates.scaled(factor, (bandwidth or math.inf) / ranks)
    sizes: dict[str, Any] = {"memory": memory // ranks, "rates": rates}
    plan = plan_host(config, weights, request, workload, parallel, **sizes)
    numbers = result.numbers | report_host(plan, model, workload)
    if device_map is None:
        return Result(numbers, result.status)
    return Result(numbers | {"fits": plan.chosen is not None}, int(plan.chosen is None))


def _measured(config: MiMoConfig, model: Path, forms: list[str], disk: float | None) -> DecodeRates:
    """Return the rates of this machine, which are measured now, and print some of them."""
    files = weight_files(model) if model.exists() else []
    with progress("measured", total=None) as advance:
        if disk is None and files:
            disk = measure_disk(files).bytes_per_second
        rates = measure_decoding(config, forms, disk)
        advance(1)
    measured = [f"{form} {amount(round(rate))}/s" for form, rate in rates.experts.items()]
    words = [f"memory {amount(round(rates.memory))}/s", *measured]
    words += [f"disk {amount(round(disk))}/s"] if disk else []
    console(sys.stderr).print(f"measured: {', '.join(words)}")
    return rates


def plan_fleet(config: MiMoConfig, workload: Workload, number: int, memory: int) -> Result:
    """Choose parallel sizes for a number of devices, print their plan, and return the numbers."""
    workload.check(config)
    fleet = choose_parallel(config, workload, number, memory)
    result = report(config, fleet.parallel, workload, memory=memory)
    numbers: dict[str, Any] = result.numbers | {"fewest_devices": None}
    if result.status:
        fewest = fewest_devices(config, workload, memory)
        numbers["fewest_devices"] = fewest
        words = "no number of devices that was tried" if fewest is None else f"{fewest} devices"
        console().print(f"Nearest that fits: {words} of {amount(memory)}.")
    return Result(numbers, result.status)
