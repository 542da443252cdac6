"""A NeuronCore for this process: what the Neuron runtime reads when it starts.

Source: AWS Neuron documentation, runtime configuration; nkipy, the examples' way to start ranks.
"""

from collections.abc import Callable, MutableMapping

__all__ = ["claim_core"]

VISIBLE, LOGICAL = "NEURON_RT_VISIBLE_CORES", "NEURON_LOGICAL_NC_CONFIG"
MEETING = "NEURON_RT_ROOT_COMM_ID"
MEETING_PORT = 61239  # nkipy's examples'


def claim_core(
    variables: MutableMapping[str, str], available: Callable[[], int], *, lnc: int
) -> None:
    """Write into `variables` which core is this rank's, and where ranks meet.

    Parameters
    ----------
    variables
        Of the process: torchrun's, and the runtime's, of which those that are set are kept.
    available
        Returns how many cores the runtime sees.
    lnc
        Physical cores of a logical one, as the programs are compiled for.

    Raises
    ------
    OSError
        If there are fewer cores than ranks on this machine.
    ValueError
        If the machine is configured for other logical cores.
    """
    if (configured := variables.setdefault(LOGICAL, str(lnc))) != str(lnc):
        raise ValueError(f"{LOGICAL} is {configured}, the programs are for {lnc}")
    ranks = int(variables.get("LOCAL_WORLD_SIZE", "1"))
    cores = _listed(variables[VISIBLE]) if VISIBLE in variables else [*range(available())]
    if len(cores) != 1:  # one is this rank's own
        if len(cores) < ranks:
            raise OSError(
                f"{ranks} ranks on this machine need a NeuronCore each, {len(cores)} are visible"
            )
        variables[VISIBLE] = str(cores[int(variables.get("LOCAL_RANK", "0"))])
    if int(variables.get("WORLD_SIZE", "1")) > 1:
        variables.setdefault(MEETING, f"{variables['MASTER_ADDR']}:{MEETING_PORT}")


def _listed(cores: str) -> list[int]:
    """Return the numbers of a list such as "0-3,8"."""
    parts = (part.partition("-") for part in cores.split(","))
    return [core for low, _, high in parts for core in range(int(low), int(high or low) + 1)]
