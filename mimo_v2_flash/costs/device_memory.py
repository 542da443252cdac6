"""A device's memory beside the bytes that a deployment puts on it: a verdict, and a refusal."""

from rich.filesize import decimal

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

from .devices import Device, fullest_device
from .workload import Workload

__all__ = ["NEURON_CORE", "check_memory", "verdict"]

CHIP = 96 * 10**9  # bytes of a Trainium2 chip, which has four logical NeuronCores
NEURON_CORE = {1: 12 * 10**9, 2: 24 * 10**9}
"""Bytes of a logical NeuronCore, by the number of its physical cores."""


def verdict(device: Device, memory: int) -> str:
    """Return a sentence: whether the device's bytes fit into `memory`, and by how much."""
    total, weights = device.total, sum(device.weights.values())
    if total <= memory:
        return (
            f"It fits: {decimal(total)} of {decimal(memory)}, {decimal(memory - total)} are free."
        )
    listed = (
        f"weights {decimal(weights)}, cache {decimal(device.cache)}, "
        f"buffers {decimal(sum(device.buffers.values()))}"
    )
    chip = f" A chip has {decimal(CHIP)}." if memory < total <= CHIP else ""
    only_weights = " The weights alone are too much." if weights > memory else ""
    return (
        f"It does not fit: {decimal(total)}, {decimal(total - memory)} more than {decimal(memory)} "
        f"({listed}).{only_weights}{chip}"
    )


def check_memory(config: MiMoConfig, plan: ParallelConfig, workload: Workload, lnc: int) -> None:
    """Raise ValueError unless every rank fits into a logical NeuronCore; it names the bytes.

    `lnc` is how many physical cores a logical one has.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    plan : ParallelConfig
        How many ranks split what.
    workload : Workload
        Sequences, lengths and dtypes.
    lnc : int
        Physical cores of a logical one.
    """
    fullest = fullest_device(config, plan, workload)
    if fullest.total > NEURON_CORE[lnc]:
        raise ValueError(f"a NeuronCore of lnc {lnc}: {verdict(fullest, NEURON_CORE[lnc])}")
