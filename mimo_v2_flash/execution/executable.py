"""XLA executables for the CPU, run by one replica or by many at a time.

jaxlib has no public API to compile HLO: the private names below are those of jaxlib 0.10.2, which
the extra `xla` pins.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from jax._src.lib import xla_client
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .portable_hlo import make_portable

__all__ = ["Executable", "cpu_devices"]

# Excess precision would skip casts to bfloat16; optimisation would double the time to compile.
OPTIONS = {"xla_allow_excess_precision": False, "xla_backend_optimization_level": 0}


def cpu_devices(count: int) -> list[Any]:
    """Return `count` of jax's CPU devices, which jax creates on its first use.

    Raises
    ------
    RuntimeError
        If jax has started with fewer devices.
    """
    if jax.config.jax_num_cpu_devices < count:
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise RuntimeError(
            f"{count} replicas: jax has started with {len(devices)} CPU devices; set "
            f"jax_num_cpu_devices to {count} before its first use"
        )
    return devices[:count]


class Executable:
    """An `HloModuleProto`, compiled by XLA for one or more replicas.

    Parameters
    ----------
    module
        Module that nkipy traced.
    devices
        A device per replica.
    """

    def __init__(self, module: Any, devices: Sequence[Any]) -> None:
        count = len(devices)
        options = xla_client.CompileOptions()
        options.env_option_overrides = list(OPTIONS.items())
        ids = np.arange(count, dtype=np.int32)[:, None]
        assignment = xla_client.DeviceAssignment.create(ids)
        for part in (options, options.executable_build_options):
            part.num_replicas, part.num_partitions = count, 1
            part.device_assignment = assignment
        stable = xla_client._xla.mlir.hlo_to_stablehlo(make_portable(module).SerializeToString())
        client, device_list = devices[0].client, xla_client.DeviceList(tuple(devices))
        self._loaded = client.compile_and_load(stable, device_list, options)
        # jax calls these arrays replicated, but their copies differ: each replica reads its copy.
        self._sharding = NamedSharding(Mesh(np.array(devices), ("replica",)), PartitionSpec())

    def __call__(self, inputs_of: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        """Return the outputs of every replica for the inputs of every replica.

        All are arrays on the replica's device. Inputs that are updated in place are donated.
        """
        whole = [
            jax.make_array_from_single_device_arrays(copies[0].shape, self._sharding, list(copies))
            for copies in zip(*inputs_of, strict=True)
        ]
        results = self._loaded.execute_sharded(whole).disassemble_into_single_device_arrays()
        return list(zip(*results, strict=True))
