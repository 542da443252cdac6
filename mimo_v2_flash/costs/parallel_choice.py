"""Parallel sizes for a number of devices: the least tensor parallelism with which a model fits.

Experts are split over all devices, heads over as few as memory allows: tensor parallelism sends
hidden states in every layer, data parallelism nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import UNSHARDED, ParallelConfig

from .devices import fullest_device, weight_bytes
from .workload import Workload

__all__ = ["Fleet", "choose_parallel", "fewest_devices"]

POWERS = 12  # of two: up to 2,048 devices


class Fleet(NamedTuple):
    """Devices with a model on them: the parallel sizes, and the bytes of the fullest device."""

    parallel: ParallelConfig
    nbytes: int


def choose_parallel(config: MiMoConfig, workload: Workload, number: int, memory: int) -> Fleet:
    """Return the first parallel sizes that fit into the devices' memory, or the smallest.

    Parameters
    ----------
    config
        The architecture.
    workload
        Sequences, lengths and dtypes.
    number
        Number of devices.
    memory
        Bytes of a device.

    Raises
    ------
    ValueError
        If the model cannot be split over so many devices.
    """
    fleets = []
    for parallel in _parallel_configs(config, number):
        fleets.append(Fleet(parallel, fullest_device(config, parallel, workload).total))
        if fleets[-1].nbytes <= memory:
            return fleets[-1]
    if not fleets:
        ParallelConfig(data_parallel_size=number).check(config)  # which raises, with the reason
    return min(fleets, key=lambda fleet: fleet.nbytes)


def fewest_devices(config: MiMoConfig, workload: Workload, memory: int) -> int | None:
    """Return the least power of two of devices that a model fits on; None if there is none.

    Their heads are split as far as the model allows, which takes the least memory.

    Parameters
    ----------
    config
        The architecture.
    workload
        Sequences, lengths and dtypes.
    memory
        Bytes of a device.
    """
    stored = workload.weight_dtype, workload.mtp_heads, workload.layout
    (whole,) = weight_bytes(config, [UNSHARDED], *stored)
    for number in (1 << power for power in range(POWERS)):
        *_, last = [None, *_parallel_configs(config, number)]
        if last is None or sum(whole.values()) > number * memory:
            continue
        if fullest_device(config, last, workload).total <= memory:
            return number
    return None


def _parallel_configs(config: MiMoConfig, number: int) -> Iterator[ParallelConfig]:
    """Yield the parallel sizes of so many devices that a model allows, by tensor parallelism."""
    for size in range(1, number + 1):
        if number % size:
            continue
        try:
            parallel = ParallelConfig(tensor_parallel_size=size, data_parallel_size=number // size)
            parallel.check(config)
        except ValueError:
            continue
        yield parallel
