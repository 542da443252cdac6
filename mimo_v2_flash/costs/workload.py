"""What a model is asked for, as far as bytes depend on it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """Sequences, their lengths, and how numbers are stored.

    Parameters
    ----------
    batch_size
        Sequences, on all devices together.
    context
        Tokens that a sequence may have.
    step
        Tokens of a sequence that pass through the layers at one time, at most.
    weights
        "fp8" (as the hub stores them), "bfloat16" or "float32".
    cache, stream
        Dtypes of keys and values, and of what flows between layers and ranks.
    """

    batch_size: int
    context: int
    step: int
    weight_dtype: str = "fp8"
    cache_dtype: Any = np.float32
    activation_dtype: Any = np.float32

    def check(self, config: MiMoConfig) -> None:
        """Raise ValueError, naming the number, if a model of `config` cannot be asked for this."""
        longest = config.max_position_embeddings
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: allowed is an integer above 0")
        if not 1 <= self.context <= longest:
            raise ValueError(f"context = {self.context}: allowed is 1 to {longest} tokens")
        if not 1 <= self.step <= self.context:
            raise ValueError(f"step = {self.step}: allowed is 1 to the context, {self.context}")

    def local_tokens(self, plan: ParallelConfig, step: int) -> int:
        """Return the tokens of a step that each rank takes to the experts, padding among them."""
        rows = -(-self.batch_size // plan.data_parallel_size)
        return -(-rows * step // plan.tensor_parallel_size)
