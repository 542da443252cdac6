"""What a model is compiled for: who shares it, how many sequences, how long, in which numbers."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

__all__ = ["Deployment"]


@dataclass(frozen=True)
class Deployment:
    """What a model is compiled for.

    Parameters
    ----------
    config, plan
        The model, and what ranks share.
    batch_size
        Sequences, on all ranks together; each rank has as many, padding among them.
    context
        Tokens that a sequence may have.
    chunk
        Tokens of a prompt that pass through the layers together.
    weights
        "fp8", "bfloat16" or "float32".
    cache, stream
        Dtypes of keys and values, and of what flows between layers and ranks.
    """

    config: MiMoConfig
    plan: ParallelConfig
    batch_size: int = 1
    context: int = 4096
    chunk: int = 128
    weight_dtype: str = "fp8"
    cache_dtype: Any = ml_dtypes.bfloat16
    activation_dtype: Any = ml_dtypes.bfloat16

    def check(self) -> None:
        """Raise ValueError, naming the number, if there cannot be programs for this."""
        self.plan.check(self.config)
        longest = self.config.max_position_embeddings
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: allowed is an integer above 0")
        if not 1 <= self.context <= longest:
            raise ValueError(f"context = {self.context}: allowed is 1 to {longest} tokens")
        if not 1 <= self.chunk <= self.context:
            raise ValueError(f"chunk = {self.chunk}: allowed is 1 to the context, {self.context}")
