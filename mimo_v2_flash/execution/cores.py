"""Assignment of a NeuronCore to this process, through the Neuron runtime's environment variables.

Source: AWS Neuron documentation, runtime configuration; nkipy's examples, for starting ranks.
"""

import re
from collections.abc import Callable, MutableMapping

from mimo_v2_flash.json_object import shorten
from mimo_v2_flash.process_variables import integer_variable

__all__ = ["claim_core"]

VISIBLE, LOGICAL = "NEURON_RT_VISIBLE_CORES", "NEURON_LOGICAL_NC_CONFIG"
ROOT_COMM = "NEURON_RT_ROOT_COMM_ID"
CORES = re.compile(r" *([0-9]{1,5})(?:-([0-9]{1,5}))? *")
ROOT_COMM_PORT = 61239  # as in nkipy's examples


def claim_core(env: MutableMapping[str, str], available: Callable[[], int], *, lnc: int) -> None:
    """Write this rank's core, and the address of the root communicator, into `env`.

    Parameters
    ----------
    env
        The process's environment, with torchrun's variables. Variables of the runtime that are set
        already are kept.
    available
        Returns how many cores the runtime sees.
    lnc
        Physical cores per logical core, as the programs are compiled for.

    Raises
    ------
    OSError
        If there are fewer cores than ranks on this machine.
    ValueError
        If the machine is configured for other logical cores, or a variable is malformed.
    """
    if (configured := env.setdefault(LOGICAL, str(lnc))) != str(lnc):
        raise ValueError(f"{LOGICAL} is {configured}, but the programs are compiled for {lnc}")
    ranks = integer_variable(env, "LOCAL_WORLD_SIZE", minimum=1, default=1)
    cores = _parse_cores(env[VISIBLE]) if VISIBLE in env else [*range(available())]
    if len(cores) != 1:  # a single visible core has been assigned to this rank already
        if len(cores) < ranks:
            raise OSError(
                f"{ranks} ranks on this machine need a NeuronCore each, {len(cores)} are visible"
            )
        env[VISIBLE] = str(cores[integer_variable(env, "LOCAL_RANK", maximum=ranks - 1, default=0)])
    if integer_variable(env, "WORLD_SIZE", minimum=1, default=1) > 1 and ROOT_COMM not in env:
        if not (host := env.get("MASTER_ADDR")):
            raise ValueError("MASTER_ADDR is missing, expected the host of rank 0")
        env[ROOT_COMM] = f"{host}:{ROOT_COMM_PORT}"


def _parse_cores(cores: str) -> list[int]:
    """Return the core numbers of a list such as "0-3,8"."""
    matches = [CORES.fullmatch(part) for part in cores.split(",")]
    ranges = [range(int(m[1]), int(m[2] or m[1]) + 1) for m in matches if m]
    if len(ranges) < len(matches) or not all(ranges):
        raise ValueError(f"{VISIBLE} is {shorten(cores)}, expected core numbers such as 0-3,8")
    return [core for part in ranges for core in part]
