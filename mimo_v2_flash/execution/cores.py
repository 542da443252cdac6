"""Assignment of a NeuronCore to this process, through the Neuron runtime's environment variables.

Source: AWS Neuron documentation, runtime configuration; nkipy's examples, for starting ranks.
"""

from collections.abc import Callable, MutableMapping

__all__ = ["claim_core"]

VISIBLE, LOGICAL = "NEURON_RT_VISIBLE_CORES", "NEURON_LOGICAL_NC_CONFIG"
ROOT_COMM = "NEURON_RT_ROOT_COMM_ID"
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
        If the machine is configured for other logical cores.
    """
    if (configured := env.setdefault(LOGICAL, str(lnc))) != str(lnc):
        raise ValueError(f"{LOGICAL} is {configured}, but the programs are compiled for {lnc}")
    ranks = int(env.get("LOCAL_WORLD_SIZE", "1"))
    cores = _parse_cores(env[VISIBLE]) if VISIBLE in env else [*range(available())]
    if len(cores) != 1:  # a single visible core has been assigned to this rank already
        if len(cores) < ranks:
            raise OSError(
                f"{ranks} ranks on this machine need a NeuronCore each, {len(cores)} are visible"
            )
        env[VISIBLE] = str(cores[int(env.get("LOCAL_RANK", "0"))])
    if int(env.get("WORLD_SIZE", "1")) > 1:
        env.setdefault(ROOT_COMM, f"{env['MASTER_ADDR']}:{ROOT_COMM_PORT}")


def _parse_cores(cores: str) -> list[int]:
    """Return the core numbers of a list such as "0-3,8"."""
    parts = (part.partition("-") for part in cores.split(","))
    return [core for low, _, high in parts for core in range(int(low), int(high or low) + 1)]
