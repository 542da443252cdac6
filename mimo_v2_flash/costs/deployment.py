"""A deployment: the model, parallel sizes, batch, context and dtypes that programs are made for."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

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
        """Raise ValueError, naming the option, if no programs can be made for this deployment."""
        self.plan.check(self.config)
        longest = self.config.max_position_embeddings
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: allowed is an integer above 0")
        if not 1 <= self.context <= longest:
            raise ValueError(f"--context {self.context}: allowed is 1 to {longest} tokens")
        if not 1 <= self.chunk <= self.context:
            raise ValueError(f"--chunk {self.chunk}: allowed is 1 to the context, {self.context}")
