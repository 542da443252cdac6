"""Compute the memory and the traffic of every device of a deployment, without running it.

The command works for any config and any number of devices. It prints bytes of weights, those of
three MTP heads included, of the KV cache and of activation buffers, and bytes that ranks send each
other; the exit status is 1 if a device has too little memory. On one machine it says what each
format takes, with experts resident or cached, how fast that is expected to be, and what to take.
With --tensors it counts what the model's files hold instead.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from mimo_v2_flash.costs import Workload
from mimo_v2_flash.costs.meta import NUM_MTP_HEADS
from mimo_v2_flash.inputs import CACHE_DTYPES, FLOATS
from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.model_loader import DEFAULTS

from .device_options import add_device_map_argument
from .isq_options import add_type_arguments
from .machine_plan import plan_fleet, plan_machine
from .option_types import natural, positive
from .options import CONTEXT, add_config_argument, default_context, read_model
from .parallel_options import add_parallel_arguments, parse_parallel_config
from .plan_report import report
from .result import Result
from .runtime_options import add_dtype_arguments
from .tensor_report import tensor_report

__all__ = ["add_arguments", "memory_size", "run"]

LARGEST = 2**63  # bytes
UNITS = {"": 1, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30}
CORE = "24GB"  # of a logical NeuronCore
NUMBERS = (
    (
        "--cores",
        None,
        "Number of cores, to which measured rates are scaled (default: this machine's).",
    ),
    (
        "--ranks",
        1,
        "Number of processes that share the machine and split the experts (default: 1).",
    ),
)
STEP = DEFAULTS["numpy"].max_step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    add_config_argument(parser)
    add_parallel_arguments(parser)
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=1,
        help="Number of sequences on all devices together (default: 1).",
    )
    parser.add_argument(
        "--context",
        type=positive,
        help=f"Maximum sequence length, in tokens (default: {CONTEXT}, or the model's maximum if "
        "that is less).",
    )
    parser.add_argument(
        "--step",
        type=positive,
        help="Number of tokens of each sequence per prefill step (default: "
        f"{STEP}, or the context if that is less).",
    )
    parser.add_argument(
        "--draft-tokens",
        type=natural,
        default=0,
        metavar="N",
        help="Number of tokens that MTP heads draft for each decode step, at most "
        f"{NUM_MTP_HEADS} (default: 0).",
    )
    add_dtype_arguments(parser, activation_dtype="float32", cache_dtypes=CACHE_DTYPES)
    _add_machine_arguments(parser)
    tensors = "Count what the model's files hold, and plan nothing."
    parser.add_argument("--tensors", action="store_true", help=tensors)


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what describes a machine, and how much of the model is to run on it."""
    group = parser.add_argument_group(
        "machine", "Without these, and on one device, it is this one."
    )
    group.add_argument(
        "--memory",
        metavar="SIZE",
        help="Memory of one device, such as 96GB or 80GiB (default: 90%% of what is free here, but "
        "24GB with parallel sizes or --devices).",
    )
    for name, what in (("--bandwidth", "memory"), ("--disk", "the disk")):
        group.add_argument(
            name,
            metavar="SIZE",
            help=f"Bytes that {what} gives in a second, such as 40GB (default: what --measure "
            "measures).",
        )
    for name, default, what in NUMBERS:
        group.add_argument(name, type=positive, default=default, help=what)
    group.add_argument(
        "--devices",
        type=device_fleet,
        metavar="KIND:N",
        help="Number of devices of a kind, such as trn2:64: Trainium2's logical cores, for which "
        "parallel sizes are chosen (default: none).",
    )
    measure = "Measure this machine's products and disk, some seconds for each format."
    group.add_argument("--measure", action="store_true", help=measure)
    group.add_argument(
        "--expert-subset",
        nargs="+",
        metavar="ID",
        help="Ids and ranges of the experts that are kept, such as 0 1 4-7 (default: all).",
    )
    add_type_arguments(group)
    add_device_map_argument(group)


def run(
    model: Path,
    expert_parallel: int | None,
    tensor_parallel: int,
    data_parallel: int | None,
    batch_size: int,
    context: int | None,
    step: int | None,
    draft_tokens: int,
    dtype: str,
    cache_dtype: str,
    activation_dtype: str,
    memory: str | None = None,
    tensors: bool = False,
    devices: int | None = None,
    **machine: Any,
) -> Result:
    """Count, print the tables and the verdict, and return all numbers."""
    named = read_model(model)
    if tensors:
        return tensor_report(named)
    config = named.config
    plan = parse_parallel_config(expert_parallel, tensor_parallel, data_parallel)
    context = default_context(config) if context is None else context
    step = min(STEP, context) if step is None else step
    dtypes = dtype, CACHE_DTYPES[cache_dtype], FLOATS[activation_dtype]
    workload = Workload(
        *(batch_size, context, step, *dtypes, NUM_MTP_HEADS, draft_tokens), layout=named.layout
    )
    if devices is not None:
        return plan_fleet(config, workload, devices, memory_size(memory or CORE))
    if plan.world_size > 1:
        return report(config, plan, workload, memory=memory_size(memory or CORE))
    workload.check(config)
    sizes = {"memory": memory, "bandwidth": machine.pop("bandwidth"), "disk": machine.pop("disk")}
    parsed: dict[str, Any] = {
        name: None if size is None else memory_size(size, f"--{name}")
        for name, size in sizes.items()
    }
    return plan_machine(named, model, workload, **parsed, **machine)


def device_fleet(text: str) -> int:
    """Return the number of devices of "trn2:64"; ArgumentTypeError if `text` is none."""
    kind, _, number = text.partition(":")
    if kind != "trn2":
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not of the form trn2:64")
    return positive(number)


def memory_size(text: str, name: str = "--memory") -> int:
    """Return the bytes of a size such as "24GB" or "80 GiB"; ValueError if `text` is none."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    size = float(match[1]) * UNITS[match[2]] if match else LARGEST
    if not 1 <= size < LARGEST:
        raise ValueError(f"{name} {shorten(text)}: allowed is a size such as 24GB or 80GiB")
    return int(size)
