"""Bytes that ranks send each other in a layer: what both exchanges take, and the least possible.

Source: experts are taken as chosen uniformly, without replacement: a token then reaches
P x (1 - C(E - E/P, A) / C(E, A)) ranks. MiMo: 7.27 of 32, 7.68 of 64.
"""

from math import comb
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

from .workload import Workload

__all__ = ["TokenBytes", "Traffic", "ranks_of_token", "traffic"]


class TokenBytes(NamedTuple):
    """Bytes that stand for one token: in the stream, its experts' sum, its choices and weights."""

    activation: int
    expert_output: int
    routing: int

    @classmethod
    def of(cls, spec: LayerSpec, dtype: Any) -> "TokenBytes":
        """Return the rows of a layer of experts."""
        float32, int32 = np.dtype(np.float32).itemsize, np.dtype(np.int32).itemsize
        return cls(
            activation=spec.hidden_size * np.dtype(dtype).itemsize,
            expert_output=spec.hidden_size * float32,
            routing=spec.experts_per_token * (float32 + int32),
        )


class Traffic(NamedTuple):
    """Bytes that all ranks send, per token and layer of experts; nothing is sent to oneself.

    Attributes
    ----------
    ranks
        Other ranks that a token's experts are on, on average.
    least
        Each token to each of them and an answer back, and nothing else.
    all_to_all
        The same, with choices and weights beside each token.
    all_gather
        Every token to every rank, and an answer from each in float32.
    heads
        Sums over the ranks that share the heads, and answers handed round among them.
    """

    ranks: float
    lower_bound: float
    all_to_all: float
    all_gather: float
    tensor_parallel: float


def traffic(config: MiMoConfig, plan: ParallelConfig, workload: Workload, *, step: int) -> Traffic:
    """Return what a step of `step` tokens in every sequence sends; zeros if there are no experts.

    A rank's own tokens are evenly spread: it is no likelier than another to hold their experts.
    """
    sparse = next((spec for spec in config.layers if spec.num_experts), None)
    if sparse is None:
        return Traffic(0.0, 0.0, 0.0, 0.0, 0.0)
    P, row = plan.expert_parallel_size, TokenBytes.of(sparse, workload.activation_dtype)
    others = ranks_of_token(sparse, P) * (P - 1) / P
    seats = (
        workload.local_tokens(plan, step) * plan.world_size / (workload.batch_size * step)
    )  # 1: no padding
    return Traffic(
        ranks=others,
        lower_bound=others * 2 * row.activation,
        all_to_all=others * (2 * row.activation + row.routing),
        all_gather=(P - 1) * (row.activation + row.routing + row.expert_output) * seats,
        tensor_parallel=(plan.tensor_parallel_size - 1)
        * (2 * row.expert_output + row.activation * seats),
    )


def ranks_of_token(spec: LayerSpec, ranks: int) -> float:
    """Return on how many ranks the experts of a token are, on average."""
    E, A = spec.num_experts, spec.experts_per_token
    return ranks * (1 - comb(E - E // ranks, A) / comb(E, A))
