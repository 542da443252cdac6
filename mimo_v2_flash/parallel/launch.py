"""The group of this process: alone, or one rank of what torchrun started."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .group import HostGroup
from .solo_group import SoloGroup

__all__ = ["init_process_group"]


@contextmanager
def init_process_group(
    variables: Mapping[str, str], *, patience: float = 25, silence: int = 15
) -> Iterator[HostGroup]:
    """Give the group of this process, and leave it when all ranks are done.

    Parameters
    ----------
    variables
        What torchrun tells its processes: WORLD_SIZE, RANK, MASTER_ADDR, MASTER_PORT. Without
        WORLD_SIZE, or if it is 1, we are alone.
    patience
        Seconds to wait for ranks that have not started, since the last one did.
    silence
        Seconds without a sign of life after which a rank is lost.

    Raises
    ------
    ModuleNotFoundError
        If there are other ranks, but no torch.
    RankError
        Which ranks have not started; later, from any exchange, who is lost and why.
    """
    if int(variables.get("WORLD_SIZE", "1")) == 1:
        yield SoloGroup()
        return
    try:
        from .process_group import join_process_group  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"several ranks need {missing.name}: pip install 'mimo-v2-flash[distributed]'",
            name=missing.name,
        ) from missing
    with join_process_group(variables, patience=patience, silence=silence) as group:
        yield group
