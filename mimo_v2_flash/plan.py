"""Deprecated path, kept for one release: `mimo_v2_flash.parallel_config` has what was here."""

from typing import Any

from mimo_v2_flash.deprecated import moved_attribute
from mimo_v2_flash.parallel_config import ParallelConfig

__all__: list[str] = []

_OLD_NAMES = {
    "data_parallel": "data_parallel_size",
    "expert_parallel": "expert_parallel_size",
    "expert_share": "expert_parallel_size",
    "share": "shard_spec",
    "tensor_parallel": "tensor_parallel_size",
    "world": "world_size",
}


class _Plan(ParallelConfig):
    """A `ParallelConfig` with the keywords and attributes that `Plan` had."""

    def __init__(
        self,
        expert_parallel: int | None = None,
        tensor_parallel: int = 1,
        data_parallel: int = 1,
    ) -> None:
        super().__init__(expert_parallel, tensor_parallel, data_parallel)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in _OLD_NAMES:
            return getattr(self, _OLD_NAMES[name])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    moved = moved_attribute(__name__, name)
    return _Plan if name == "Plan" else moved
