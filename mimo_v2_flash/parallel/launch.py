"""Initialization of the process group: for a single process, or for the ranks of torchrun."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .group import HostGroup
from .solo_group import SoloGroup

__all__ = ["init_process_group"]


@contextmanager
def init_process_group(
    env: Mapping[str, str], *, start_timeout: float = 25, heartbeat_timeout: int = 15
) -> Iterator[HostGroup]:
    """Yield the process group of all ranks, and shut it down when all of them are done.

    Parameters
    ----------
    env
        Environment variables that torchrun sets: WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT. The
        group is a `SoloGroup` without WORLD_SIZE, or if it is 1.
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
    """
    if int(env.get("WORLD_SIZE", "1")) == 1:
        yield SoloGroup()
        return
    try:
        from .process_group import join_process_group  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"several ranks need {missing.name}: pip install 'mimo-v2-flash[distributed]'",
            name=missing.name,
        ) from missing
    with join_process_group(
        env, start_timeout=start_timeout, heartbeat_timeout=heartbeat_timeout
    ) as group:
        yield group
