"""Workload of a deployment: batch size, lengths and dtypes, on which bytes depend."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.config_presets import SPLIT, HubLayout
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import HUB_FORMAT

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """Batch size, context length, step length and dtypes of a deployment.

    Parameters
    ----------
    batch_size
        Sequences, on all devices together.
    context
        The most tokens that a sequence may have.
    step
        The most tokens of a sequence that pass through the layers at one time.
    weight_dtype
        "fp8" (as the hub stores weights), "bfloat16" or "float32".
    cache_dtype, activation_dtype
        Dtypes of keys and values, and of hidden states.
    mtp_heads
        MTP heads whose weights are loaded.
    draft_tokens
        Tokens of a sequence that the first so many of these heads draft for a decode step.
    layout
        How the hub's files store weights.
    """

    batch_size: int
    context: int
    step: int
    weight_dtype: str = HUB_FORMAT
    cache_dtype: Any = np.float32
    activation_dtype: Any = np.float32
    mtp_heads: int = 0
    draft_tokens: int = 0
    layout: HubLayout = SPLIT

    def check(self, config: MiMoConfig) -> None:
        """Raise ValueError, naming the number, if a model of `config` cannot run this workload."""
        longest = config.max_position_embeddings
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: allowed is an integer above 0")
        if not 1 <= self.context <= longest:
            raise ValueError(f"context = {self.context}: allowed is 1 to {longest} tokens")
        if not 1 <= self.step <= self.context:
            raise ValueError(f"step = {self.step}: allowed is 1 to the context, {self.context}")
        most = min(self.mtp_heads, self.step - 1)
        if not 0 <= self.draft_tokens <= most:
            raise ValueError(
                f"draft_tokens = {self.draft_tokens}: allowed is 0 to {most}, with "
                f"{self.mtp_heads} MTP heads and a step of {self.step}"
            )

    def local_tokens(self, plan: ParallelConfig, step: int) -> int:
        """Return the tokens of a step that each rank dispatches to experts, padding included."""
        rows = -(-self.batch_size // plan.data_parallel_size)
        return -(-rows * step // plan.tensor_parallel_size)
