"""Eager-mode experts: few tokens in a compiled call, many by `grouped_experts`.

Host code, not a kernel. `kernels/moe_expert.py` says what is computed; `cpu/expert_step.py`
computes it where numba can be used and the experts' format has a compiled loop.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights, ExpertWeights
from mimo_v2_flash.cpu.loading import compiled_module
from mimo_v2_flash.expert_store import StoredExperts
from mimo_v2_flash.kernels.axes import checked
from mimo_v2_flash.quantization.compute import stored_weight
from mimo_v2_flash.quantization.matmul import compiled_weight

from .grouped_experts import grouped_experts

__all__ = ["MAX_TOKENS", "ExpertTable", "eager_experts"]

MAX_TOKENS = 128  # of a step; more of them are as fast by expert, one after the other


class ExpertKind(NamedTuple):
    """What experts of one compiled call have in common: loop, element, compute type, F and D."""

    loop: Any
    itemsize: int
    compute: str
    shape: tuple[int, int]


class ExpertTable:
    """Where a layer's experts lie in memory; an expert is read when it is first chosen."""

    def __init__(self, experts: int) -> None:
        self.address_EWP = np.zeros((experts, 3, 3), np.int64)
        self._kinds: dict[int, ExpertKind | None] = {}
        self._held: list[Any] = []  # what the addresses are of

    def kind(self, expert: int, experts: Sequence[DenseWeights]) -> ExpertKind | None:
        """Return the kind of an expert; None if the loops cannot read it."""
        if expert not in self._kinds:
            self._kinds[expert] = self._add(expert, experts[expert])
        return self._kinds[expert]

    def _add(self, expert: int, record: DenseWeights) -> ExpertKind | None:
        (F, D), stored = record.w_gate_FD.shape, [stored_weight(w) for w in record]
        readable = [compiled_weight(w) for w, _ in stored]
        weights = [weight for weight in readable if weight is not None]
        if [w.shape for w in record] != [(F, D), (F, D), (D, F)] or len(weights) < 3:
            return None
        kinds = {
            ExpertKind(w.expert_loop, w.itemsize, compute, (F, D))
            for w in weights
            for _, compute in stored
        }
        if len(kinds) > 1 or any(kind.loop is None for kind in kinds):
            return None
        self._held.append(weights)
        self.address_EWP[expert] = [w.address for w in weights]
        return kinds.pop()


_tables: WeakKeyDictionary[ExpertWeights, ExpertTable] = WeakKeyDictionary()


class _HeldExperts(Sequence[DenseWeights]):
    """The experts of a layer of which a store holds some, by id."""

    def __init__(self, experts: int, held: Mapping[int, DenseWeights]) -> None:
        self._experts, self._held = experts, held

    def __len__(self) -> int:
        return self._experts

    def __getitem__(self, index: Any) -> Any:
        return self._held[index]


@checked
def eager_experts(
    x_ND: Any, weight_NA: Any, expert_NA: Any, experts: Sequence[DenseWeights]
) -> Any:
    """Return `y_ND` of `grouped_experts`, float32; the parameters are its own.

    Of an expert store they come in groups, whose sums are added in the order of all experts.

    Parameters
    ----------
    x_ND : array, float32 or bfloat16
        Tokens.
    weight_NA : array, float32
        Weight of each expert that a token chose.
    expert_NA : array of int32
        Id of each expert that a token chose.
    experts : sequence of DenseWeights
        The experts, or those of an expert store.
    """
    y_ND = np.zeros(x_ND.shape, np.float32)
    weight_NA, expert_NA = np.ascontiguousarray(weight_NA), np.ascontiguousarray(expert_NA)
    if not isinstance(experts, StoredExperts):
        _add_experts(x_ND, weight_NA, expert_NA, experts, y_ND)
        return y_ND
    chosen = [expert for expert in np.unique(expert_NA).tolist() if 0 <= expert < len(experts)]

    def add_group(held: Mapping[int, DenseWeights]) -> None:
        ids_NA = expert_NA if len(held) == len(chosen) else _masked(expert_NA, list(held))
        _add_experts(x_ND, weight_NA, ids_NA, _HeldExperts(len(experts), held), y_ND)

    experts.run_call(chosen, len(x_ND), add_group)
    return y_ND


def _masked(expert_NA: np.ndarray, ids: list[int]) -> np.ndarray:
    """Return ids of experts with those that are not in `ids` as -1."""
    masked_NA: np.ndarray = np.where(np.isin(expert_NA, ids), expert_NA, np.int32(-1))
    return masked_NA


def _add_experts(
    x_ND: Any,
    weight_NA: np.ndarray,
    expert_NA: np.ndarray,
    experts: Sequence[DenseWeights],
    y_ND: np.ndarray,
) -> None:
    """Add to `y_ND` what the experts contribute, in the order of their numbers."""
    loops = compiled_module("expert_step") if 0 < len(x_ND) <= MAX_TOKENS else None
    if loops is None or x_ND.dtype != np.float32:
        grouped_experts(x_ND, weight_NA, expert_NA, experts, y_ND)
        return
    table = _table(experts)
    pairs = loops.group_by_expert(weight_NA, expert_NA, len(experts))
    kinds = {expert: table.kind(expert, experts) for expert in pairs.expert_G.tolist()}
    for kind, run in groupby(kinds, kinds.get):  # one, but for layers of mixed formats
        ids, kind_NA = list(run), expert_NA
        if len(ids) < len(kinds):
            kind_NA = _masked(expert_NA, ids)
            pairs = loops.group_by_expert(weight_NA, kind_NA, len(experts))
        if kind is None or kind.shape[1] != x_ND.shape[1]:
            grouped_experts(x_ND, weight_NA, kind_NA, experts, y_ND)
        else:
            loop, itemsize, compute, (width, _) = kind
            where = pairs, table.address_EWP, width
            loops.add_experts(loop, itemsize, x_ND, *where, y_ND, compute)


def _table(experts: Sequence[DenseWeights]) -> ExpertTable:
    """Return the table of a layer's experts; of a store, whose experts come and go, a new one."""
    if not isinstance(experts, ExpertWeights):
        return ExpertTable(len(experts))
    table = _tables.get(experts)
    return table or _tables.setdefault(experts, ExpertTable(len(experts)))
