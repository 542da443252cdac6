"""Communication volume of a layer: bytes of both dispatchers, and of tensor parallelism.

Source: uniform routing without replacement, where the A of E experts of a token are on
P x (1 - C(E - E/P, A) / C(E, A)) of P ranks, on average. MiMo: 7.27 of 32, 7.68 of 64.
"""

from math import comb
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.config import LayerSpec, MiMoConfig
from mimo_v2_flash.parallel_config import ParallelConfig

from .workload import Workload

__all__ = ["TokenBytes", "Traffic", "ranks_of_token", "traffic"]


class TokenBytes(NamedTuple):
    """Bytes per token: hidden state, sum of its experts' outputs, expert ids with weights."""

    activation: int
    expert_output: int
    routing: int

    @classmethod
    def of(cls, spec: LayerSpec, dtype: Any) -> "TokenBytes":
        """Return the bytes per token in a mixture of experts, with hidden states of `dtype`."""
        float32, int32 = np.dtype(np.float32).itemsize, np.dtype(np.int32).itemsize
        return cls(
            activation=spec.hidden_size * np.dtype(dtype).itemsize,
            expert_output=spec.hidden_size * float32,
            routing=spec.experts_per_token * (float32 + int32),
        )


class Traffic(NamedTuple):
    """Bytes that all ranks send to others, per token and mixture-of-experts layer.

    Attributes
    ----------
    ranks
        Other ranks that have experts of a token, on average.
    lower_bound
        Bytes of sending each token to each of those ranks and one hidden state back.
    all_to_all
        Bytes of the all-to-all dispatcher: the same, with expert ids and weights per token.
    all_gather
        Bytes of the all-gather dispatcher: every token to every rank of the expert-parallel group,
        and a float32 expert output from each.
    tensor_parallel
        Bytes of all-reduces in the tensor-parallel group, and of gathering its hidden states.
    """

    ranks: float
    lower_bound: float
    all_to_all: float
    all_gather: float
    tensor_parallel: float


def traffic(config: MiMoConfig, plan: ParallelConfig, workload: Workload, *, step: int) -> Traffic:
    """Return the traffic of a step of `step` tokens in every sequence; zeros without experts.

    A token's experts are as likely on its own rank as on any other.

    Parameters
    ----------
    config : MiMoConfig
        The architecture's numbers.
    plan : ParallelConfig
        How many ranks split what.
    workload : Workload
        Sequences and dtypes.
    step : int
        Tokens of each sequence.
    """
    sparse = next((spec for spec in config.layers if spec.num_experts), None)
    if sparse is None:
        return Traffic(0.0, 0.0, 0.0, 0.0, 0.0)
    P, row = plan.expert_parallel_size, TokenBytes.of(sparse, workload.activation_dtype)
    others = ranks_of_token(sparse, P) * (P - 1) / P
    tokens, T = workload.batch_size * step, plan.tensor_parallel_size
    # Factors; 1 is no padding: all_gather pads to the most tokens of any rank, ranks that share
    # heads to equal parts of their tokens.
    padding = workload.local_tokens(plan, step) * plan.world_size / tokens
    rows = (plan.batch_range(rank, workload.batch_size) for rank in range(0, plan.world_size, T))
    parts = sum(-(-len(part) * step // T) * T for part in rows) / tokens
    return Traffic(
        ranks=others,
        lower_bound=others * 2 * row.activation,
        all_to_all=others * (2 * row.activation + row.routing),
        all_gather=(P - 1) * (row.activation + row.routing + row.expert_output) * padding,
        tensor_parallel=(T - 1) * (2 * row.expert_output + row.activation * parts),
    )


def ranks_of_token(spec: LayerSpec, ranks: int) -> float:
    """Return how many of `ranks` ranks have experts of a token, on average."""
    E, A = spec.num_experts, spec.experts_per_token
    return ranks * (1 - comb(E - E // ranks, A) / comb(E, A))
