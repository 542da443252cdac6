"""Report of a plan's memory and traffic as tables, as a verdict, and as JSON."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.costs import Device, Traffic, Workload, devices, traffic
from mimo_v2_flash.costs.device_memory import verdict
from mimo_v2_flash.inputs import cache_dtype_name
from mimo_v2_flash.parallel_config import ParallelConfig

from .console import amount, console, table
from .parallel_options import parallel_sizes
from .result import Result

__all__ = ["report"]

TRAFFIC_KEYS = ("ranks", "least", "all_to_all", "all_gather", "heads")
NAMES = {"stream": "hidden states", "exchange": "expert dispatch", "mtp": "MTP heads"}
"""Names in the table, where they differ from the keys of `--json`."""


def report(
    config: MiMoConfig,
    plan: ParallelConfig,
    workload: Workload,
    *,
    memory: int,
) -> Result:
    """Print the memory and the traffic of `plan`, and return all numbers.

    The status is 1 if a device needs more than `memory` bytes.
    """
    all_devices = devices(config, plan, workload)
    steps = {"prefill": workload.step, "decode": 1}
    sent = {name: traffic(config, plan, workload, step=step) for name, step in steps.items()}
    fullest = max(all_devices, key=lambda device: device.total)
    out, drafts = console(), ""
    if workload.draft_tokens:
        drafts = f", decoded with {workload.draft_tokens} draft tokens each"
    out.print(
        f"{plan.world_size} devices: expert parallel {plan.expert_parallel_size}, tensor parallel "
        f"{plan.tensor_parallel_size}, data parallel {plan.data_parallel_size}; "
        f"{workload.batch_size} sequences of {workload.context} tokens, prefilled "
        f"{workload.step} at a time{drafts}"
    )
    out.print(_memory(all_devices, fullest, workload))
    if plan.world_size > 1:
        out.print(_traffic(sent, sum(config.moe_layer_freq)))
    out.print(verdict(fullest, memory))
    fits = fullest.total <= memory
    numbers = _numbers(plan, workload, all_devices, sent)
    return Result(numbers | {"memory": memory, "fits": fits}, 0 if fits else 1)


def _memory(all_devices: list[Device], fullest: Device, workload: Workload) -> Any:
    """Return the table of bytes on the fullest device, and on all together."""
    cache = f"KV cache, {cache_dtype_name(workload.cache_dtype)}"
    rows_of_devices = [_rows(device, cache) for device in all_devices]
    rows = (
        (name, amount(size), amount(sum(rows[name] for rows in rows_of_devices)))
        for name, size in _rows(fullest, cache).items()
    )
    return table("Memory", ("what",), ("fullest device", "all devices"), rows)


def _rows(device: Device, cache: str) -> dict[str, int]:
    weights = {NAMES.get(key, key): size for key, size in device.weights.items()}
    buffers = {f"buffer: {NAMES.get(key, key)}": size for key, size in device.buffers.items()}
    return {**weights, cache: device.cache, **buffers, "total": device.total}


def _traffic(sent: dict[str, Traffic], layers: int) -> Any:
    """Return the table of bytes that all devices send."""
    return table(
        f"Sent by all devices, per token and each of {layers} MoE layers",
        ("step",),
        ("remote ranks per token", "lower bound", "all_to_all", "all_gather", "tensor parallel"),
        (
            (name, f"{ranks:.2f}", *(amount(round(size)) for size in sizes))
            for name, (ranks, *sizes) in sent.items()
        ),
    )


def _numbers(
    plan: ParallelConfig, workload: Workload, all_devices: list[Device], sent: dict[str, Traffic]
) -> dict[str, Any]:
    """Return all numbers by the keys of `--json`, which stay when a field is renamed."""
    return {
        "plan": parallel_sizes(plan),
        "load": {
            "batch_size": workload.batch_size,
            "context": workload.context,
            "step": workload.step,
            "weights": workload.weight_dtype,
            "cache": cache_dtype_name(workload.cache_dtype),
            "stream": np.dtype(workload.activation_dtype).name,
            "mtp_heads": workload.mtp_heads,
            "draft_tokens": workload.draft_tokens,
        },
        "devices": [device._asdict() | {"total": device.total} for device in all_devices],
        "sent_per_token_and_layer": {
            name: dict(zip(TRAFFIC_KEYS, traffic, strict=True)) for name, traffic in sent.items()
        },
    }
