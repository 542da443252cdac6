"""A deployment: the model, parallel sizes, batch, context and dtypes that programs are made for."""

from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import HUB_FORMAT

from .workload import Workload

__all__ = ["Deployment"]


@dataclass(frozen=True)
class Deployment:
    """The sizes and dtypes that a model's programs are compiled for.

    Parameters
    ----------
    config
        Config of the model.
    plan
        Parallel sizes.
    batch_size
        Sequences on all ranks together; every rank has equally many, padding included.
    context
        Maximum sequence length, in tokens.
    chunk
        Tokens of a prompt per prefill step.
    weight_dtype
        "fp8", "bfloat16" or "float32".
    cache_dtype
        Dtype of the KV cache.
    activation_dtype
        Dtype of the activations between layers and between ranks.
    draft_tokens
        Tokens that MTP heads draft for each step of a sequence; so many heads are loaded.
    layout
        How the hub's files store weights. Its experts are those of programs: in the hub's format,
        to which others are prepared, as devices multiply no other.
    layers_per_program
        The most layers of a program; as many as the compiler is expected to accept if None.
    """

    config: MiMoConfig
    plan: ParallelConfig
    batch_size: int = 1
    context: int = 4096
    chunk: int = 128
    weight_dtype: str = HUB_FORMAT
    cache_dtype: Any = ml_dtypes.bfloat16
    activation_dtype: Any = ml_dtypes.bfloat16
    draft_tokens: int = 0
    layout: HubLayout = SPLIT
    layers_per_program: int | None = None

    def __post_init__(self) -> None:
        """Take experts as they are prepared for a device."""
        object.__setattr__(self, "layout", self.layout._replace(expert_format=None))

    @property
    def workload(self) -> Workload:
        """The sizes and dtypes on which a device's bytes depend."""
        sizes = self.batch_size, self.context, self.chunk
        dtypes = self.weight_dtype, self.cache_dtype, self.activation_dtype
        return Workload(*sizes, *dtypes, layout=self.layout)

    @property
    def local_rows(self) -> int:
        """Sequences of each rank, padding included."""
        return -(-self.batch_size // self.plan.data_parallel_size)

    def check(self) -> None:
        """Raise ValueError, naming the size, if no programs can be made for this deployment."""
        self.plan.check(self.config)
        replace(self.workload, step=1).check(self.config)
        if not 1 <= self.chunk <= self.context:
            raise ValueError(f"chunk = {self.chunk}: allowed is 1 to the context, {self.context}")
        most = min(MAX_DRAFT_TOKENS, self.chunk - 1)
        if not 0 <= self.draft_tokens <= most:
            raise ValueError(f"draft_tokens = {self.draft_tokens}: allowed is 0 to {most}")
