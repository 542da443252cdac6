"""What a plan takes, as tables, as one sentence, and as JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Device, Traffic, Workload, devices, traffic
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.weights.hub_tensors import mtp_tensors

from .console import amount, console, table
from .parallel_options import parallel_sizes

__all__ = ["report", "verdict"]

TRAFFIC_KEYS = ("ranks", "least", "all_to_all", "all_gather", "heads")
CHIP = 96 * 10**9  # bytes of a chip of Trainium2: of four logical cores


def report(
    config: MiMoConfig,
    plan: ParallelConfig,
    workload: Workload,
    *,
    memory: int,
    file: Path | None = None,
) -> int:
    """Print what `plan` takes of devices with `memory` bytes, and return the exit status.

    The status is 1 if it does not fit. All numbers are written into `file`, if one is given.
    """
    held = devices(config, plan, workload)
    steps = {"prefill": workload.step, "decode": 1}
    sent = {name: traffic(config, plan, workload, step=step) for name, step in steps.items()}
    fullest = max(held, key=lambda device: device.total)
    out = console()
    out.print(
        f"{plan.world_size} devices: experts on {plan.expert_parallel_size}, heads on {plan.tensor_parallel_size}, "
        f"{workload.batch_size} sequences of {workload.context} tokens in {plan.data_parallel_size} shares, "
        f"{workload.step} tokens of each in a step"
    )
    out.print(_memory(held, fullest, workload))
    if plan.world_size > 1:
        out.print(_exchanges(sent, sum(config.moe_layer_freq)))
    predictors = sum(place.end for place in mtp_tensors(config).values())
    out.print(f"Multi-token predictors are not loaded: {amount(predictors)} of the checkpoint.")
    out.print(verdict(fullest, memory))
    if file is not None:
        said = _numbers(plan, workload, held, sent)
        said |= {"memory": memory, "fits": fullest.total <= memory}
        file.write_text(json.dumps(said, indent=1) + "\n")
    return int(fullest.total > memory)


def verdict(device: Device, memory: int) -> str:
    """Return whether a device's bytes fit, and by how much or why not."""
    total, weights = device.total, sum(device.weights.values())
    if total <= memory:
        return f"It fits: {amount(total)} of {amount(memory)}, {amount(memory - total)} are free."
    parts = (
        ("weights", weights),
        ("cache", device.cache),
        ("buffers", sum(device.buffers.values())),
    )
    listed = ", ".join(f"{name} {amount(size)}" for name, size in parts)
    chip = f" A chip has {amount(CHIP)}." if memory < total <= CHIP else ""
    alone = " The weights alone are too much." if weights > memory else ""
    return (
        f"It does not fit: {amount(total)}, {amount(total - memory)} more than {amount(memory)} "
        f"({listed}).{alone}{chip}"
    )


def _memory(held: list[Device], fullest: Device, workload: Workload) -> Any:
    """Return the table of bytes: the fullest device, and all together."""
    made = table("What a plan takes", ("what",), ("fullest device", "all devices"))
    cache = f"KV cache, {np.dtype(workload.cache_dtype)}"
    of_every = [_rows(device, cache) for device in held]
    for name, size in _rows(fullest, cache).items():
        made.add_row(name, amount(size), amount(sum(rows[name] for rows in of_every)))
    return made


def _rows(device: Device, cache: str) -> dict[str, int]:
    buffers = {f"buffer: {name}": size for name, size in device.buffers.items()}
    return {**device.weights, cache: device.cache, **buffers, "total": device.total}


def _exchanges(sent: dict[str, Traffic], layers: int) -> Any:
    """Return the table of what all devices send."""
    made = table(
        f"Sent by all devices, per token and each of {layers} layers of experts",
        ("step",),
        ("other ranks of a token", "least", "all_to_all", "all_gather", "among heads"),
    )
    for name, (ranks, *sizes) in sent.items():
        made.add_row(name, f"{ranks:.2f}", *(amount(round(size)) for size in sizes))
    return made


def _numbers(
    plan: ParallelConfig, workload: Workload, held: list[Device], sent: dict[str, Traffic]
) -> dict[str, Any]:
    """Return all numbers; the keys are those of `--json`, whatever fields are called."""
    return {
        "plan": parallel_sizes(plan),
        "load": {
            "batch_size": workload.batch_size,
            "context": workload.context,
            "step": workload.step,
            "weights": workload.weight_dtype,
            "cache": np.dtype(workload.cache_dtype).name,
            "stream": np.dtype(workload.activation_dtype).name,
        },
        "devices": [device._asdict() | {"total": device.total} for device in held],
        "sent_per_token_and_layer": {
            name: dict(zip(TRAFFIC_KEYS, traffic, strict=True)) for name, traffic in sent.items()
        },
    }
