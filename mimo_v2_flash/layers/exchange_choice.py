"""Which collectives of an expert layer are quicker: five of few bytes, or two of more.

Five: all_reduce of attention's output over the tensor group, all_gather of tokens and of routing
over the expert group, reduce_scatter of the experts' outputs, all_gather over the tensor group.
Two: all_reduce of attention's output over all ranks, and of the experts' over the expert group, of
all tokens.
"""

from mimo_v2_flash.config import LayerSpec
from mimo_v2_flash.execution.collective_cost import collective_seconds
from mimo_v2_flash.parallel_config import ParallelConfig

__all__ = ["five_exchanges", "replicates", "two_exchanges"]

FLOAT = 4  # bytes of a sum


def five_exchanges(spec: LayerSpec, plan: ParallelConfig, rows: int, itemsize: int) -> float:
    """Return the seconds of a layer's collectives where a rank has the hidden states of `rows`.

    Parameters
    ----------
    spec
        The layer.
    plan
        How many ranks split what.
    rows
        Tokens of a data-parallel rank.
    itemsize
        Bytes of an element of the hidden states.
    """
    T, P, D = plan.tensor_parallel_size, plan.expert_parallel_size, spec.hidden_size
    part = -(-rows // T)
    sent = [
        *([2 * (T - 1) / T * rows * D * FLOAT, (T - 1) * part * D * itemsize] if T > 1 else []),
        (P - 1) * part * D * itemsize,
        (P - 1) * part * 2 * spec.experts_per_token * FLOAT,
        (P - 1) * part * D * FLOAT,
    ]
    return collective_seconds(*sent)


def two_exchanges(spec: LayerSpec, plan: ParallelConfig, rows: int) -> float:
    """Return the seconds of a layer's collectives where every rank has those of all tokens.

    Parameters
    ----------
    spec
        The layer.
    plan
        How many ranks split what.
    rows
        Tokens of a data-parallel rank.
    """
    tokens = rows * plan.data_parallel_size * spec.hidden_size * FLOAT
    groups = plan.world_size, plan.expert_parallel_size
    return collective_seconds(*(2 * (size - 1) / size * tokens for size in groups))


def replicates(spec: LayerSpec, plan: ParallelConfig, rows: int, itemsize: int) -> bool:
    """Return whether two collectives are quicker, for `rows` tokens of a data-parallel rank.

    Parameters
    ----------
    spec
        The layer.
    plan
        How many ranks split what.
    rows
        Tokens of a data-parallel rank.
    itemsize
        Bytes of an element of the hidden states.
    """
    if plan.world_size == 1 or not spec.num_experts:
        return False
    return two_exchanges(spec, plan, rows) < five_exchanges(spec, plan, rows, itemsize)
