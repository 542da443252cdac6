"""Initialization of the process group: for a single process, or for the ranks of torchrun."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from mimo_v2_flash.process_variables import integer_variable

from .group import HostGroup
from .solo_group import SoloGroup

__all__ = ["RunAddress", "init_process_group"]


class RunAddress(NamedTuple):
    """A rank's place in a run, and the host and port at which all ranks meet.

    Attributes
    ----------
    rank, size
        Number of this rank, and number of ranks.
    host, port
        Where rank 0, or its launcher, hosts the store of the run.
    """

    rank: int
    size: int
    host: str
    port: int

    @classmethod
    def of_variables(cls, env: Mapping[str, str]) -> "RunAddress":
        """Return the address that torchrun's variables have; ValueError names a wrong one."""
        size = integer_variable(env, "WORLD_SIZE", minimum=1)
        rank = integer_variable(env, "RANK", maximum=size - 1)
        if not env.get("MASTER_ADDR"):
            raise ValueError("MASTER_ADDR is missing, expected the host of rank 0")
        port = integer_variable(env, "MASTER_PORT", minimum=1, maximum=65535)
        return cls(rank, size, env["MASTER_ADDR"], port)


@contextmanager
def init_process_group(
    env: Mapping[str, str], *, start_timeout: float = 25, heartbeat_timeout: int = 15
) -> Iterator[HostGroup]:
    """Yield the process group of all ranks, and shut it down when all of them are done.

    Parameters
    ----------
    env
        Environment variables that torchrun sets: WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT. The
        group is a `SoloGroup` without WORLD_SIZE, or if it is 1; then the others are not read.
    start_timeout
        Seconds to wait for ranks that have not started, since the last one did.
    heartbeat_timeout
        Seconds without a heartbeat after which a rank counts as lost.

    Raises
    ------
    ModuleNotFoundError
        If there are other ranks, but torch is not installed.
    RankError
        If ranks have not started; later, from any collective, if a rank is lost. The message names
        the ranks and the cause.
    ValueError
        If a variable is missing, malformed, or names what this machine does not have; it is named.
    """
    if integer_variable(env, "WORLD_SIZE", minimum=1, default=1) == 1:
        yield SoloGroup()
        return
    address = RunAddress.of_variables(env)
    try:
        from .process_group import join_process_group  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"several ranks need {missing.name}: pip install 'mimo-v2-flash[distributed]'",
            name=missing.name,
        ) from missing
    with join_process_group(
        address, env, start_timeout=start_timeout, heartbeat_timeout=heartbeat_timeout
    ) as group:
        yield group
