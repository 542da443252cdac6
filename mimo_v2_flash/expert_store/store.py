"""The expert store: whole experts of a model within a budget of bytes, over files on disk.

A call of a layer pins the experts of a group, reads those that are missing, all at a time, and
multiplies. Threads may share a store: they read and multiply side by side, and wait only for an
expert that another one reads, or for room that another one has pinned.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Condition
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.params import DenseWeights, ExpertWeights, ModelWeights, MoEWeights

from .eviction_policies import Policy
from .expert_record import ExpertRecord
from .file_reader import FileReader, new_buffer
from .residency import ExpertGroup, Residency

__all__ = ["ExpertStore", "StoreStats", "StoredExperts", "find_store", "store_stats"]


class StoreStats(NamedTuple):
    """Statistics of an expert store since its start.

    Attributes
    ----------
    policy, is_direct
        The eviction policy, and whether reads bypass the page cache.
    hits, misses, cold_misses, evictions
        Experts of calls that were held, and that were read; those of the latter that no call had
        chosen before; experts that made room.
    read_bytes, wait_seconds
        Bytes read, and the time that calls waited for them.
    held_bytes, peak_bytes, max_bytes
        Bytes of the experts that are held, the most so far, and the budget.
    """

    policy: str
    is_direct: bool
    hits: int
    misses: int
    cold_misses: int
    evictions: int
    read_bytes: int
    wait_seconds: float
    held_bytes: int
    peak_bytes: int
    max_bytes: int


class _Held(NamedTuple):
    """An expert in memory: its buffer, and the weights in it."""

    buffer: np.ndarray
    weights: DenseWeights


class ExpertStore:
    """A store of the experts of one model.

    Parameters
    ----------
    weights
        The model's weights, mapped from files.
    budget
        The most bytes that all held experts take.
    policy
        Which expert goes first.

    Raises
    ------
    ValueError
        If the model has no experts, they are not in files as memory holds them, or the budget is
        less than an expert.
    ExpertReadError
        If a file cannot be opened, or was changed.
    """

    def __init__(self, weights: ModelWeights, budget: int, policy: Policy) -> None:
        mixtures = [
            (number, layer.feed_forward.experts)
            for number, layer in enumerate(weights.layers)
            if isinstance(layer.feed_forward, MoEWeights)
        ]
        self.layer_ids = [number for number, _ in mixtures]
        self._records = [_records(number, experts) for number, experts in mixtures]
        self.size_LE = np.array([[r.layout.nbytes for r in row] for row in self._records], np.int64)
        if not self.size_LE.size:
            raise ValueError("expert_cache is for a model with experts, this one has none")
        if budget < (largest := int(self.size_LE.max())):
            raise ValueError(
                f"expert_cache is {budget:,} bytes, expected room for an expert: {largest:,}"
            )
        segments = [s for row in self._records for record in row for s in record.layout.places]
        self._reader = FileReader({region.file: region.file_size for _, region in segments})
        self._policy, self._residency = (
            policy,
            Residency(self.size_LE, budget, policy, self.layer_ids),
        )
        self._held: dict[int, Future[_Held]] = {}
        self._changed = Condition()
        self._read_bytes, self._wait_seconds = 0, 0.0

    def __reduce__(self) -> Any:
        raise TypeError("a model with an expert store is not pickled: load it in each process")

    @property
    def stats(self) -> StoreStats:
        """Statistics so far."""
        with self._changed:
            residency = self._residency
            return StoreStats(
                self._policy.name,
                self._reader.is_direct,
                residency.hits,
                residency.misses,
                residency.cold_misses,
                residency.evictions,
                self._read_bytes,
                self._wait_seconds,
                residency.held_bytes,
                residency.peak_bytes,
                residency.budget,
            )

    def read_copy(self, layer: int, expert: int) -> DenseWeights:
        """Return an expert that is read for its caller alone; the store does not hold it."""
        record = self._records[layer][expert]
        buffer = new_buffer(record.layout.nbytes)
        self._reader.read([(record.layout, buffer)])
        return record.weights(buffer)

    def run_call(
        self,
        layer: int,
        experts: Sequence[int],
        tokens: int,
        compute: Callable[[Mapping[int, DenseWeights]], None],
    ) -> None:
        """Let a call of a layer, by its index here, compute with each group of its experts.

        Parameters
        ----------
        layer, experts
            The layer, and what it chose, in ascending order.
        tokens
            The number of the call's tokens.
        compute
            Called with the weights of each group, which it must not keep.

        Raises
        ------
        ExpertReadError
            If a read fails; the store goes on without what could not be read.
        """
        with self._changed:
            self._residency.begin_call(layer, experts, tokens)
        done = 0
        while done < len(experts):
            done += self._run_group(layer, experts[done:], compute)

    def _run_group(
        self,
        layer: int,
        experts: Sequence[int],
        compute: Callable[[Mapping[int, DenseWeights]], None],
    ) -> int:
        """Compute with the next group of a call; return how many experts it has."""
        group, waiting, reading = self._take(layer, experts)
        try:
            start = time.perf_counter()
            self._read(layer, reading)
            held = {expert: future.result().weights for expert, future in waiting.items()}
            self._count_wait(time.perf_counter() - start)
            compute(held)
        finally:
            self._release(layer, group)
        return len(group.experts)

    def _take(
        self, layer: int, experts: Sequence[int]
    ) -> tuple[
        ExpertGroup, dict[int, "Future[_Held]"], dict[int, tuple["Future[_Held]", np.ndarray]]
    ]:
        """Return a pinned group, what its experts will be, and those that this call has to read."""
        with self._changed:
            while not (group := self._residency.take_group(layer, experts)).experts:
                self._changed.wait()
            freed = [self._held.pop(key).result().buffer for key in group.evicted]
            reading = {}
            for expert in group.missing:
                size = int(self.size_LE[layer, expert])
                fitting = next((i for i, buffer in enumerate(freed) if buffer.size == size), None)
                buffer = new_buffer(size) if fitting is None else freed.pop(fitting)
                future = self._held[self._key(layer, expert)] = Future()
                reading[expert] = future, buffer
            waiting = {expert: self._held[self._key(layer, expert)] for expert in group.experts}
            return group, waiting, reading

    def _read(self, layer: int, reading: Mapping[int, tuple["Future[_Held]", np.ndarray]]) -> None:
        """Read the missing experts of a group; without an expert that fails, others are read."""
        if not reading:
            return
        records = {expert: self._records[layer][expert] for expert in reading}
        try:
            self._reader.read((records[e].layout, buffer) for e, (_, buffer) in reading.items())
        except BaseException as error:
            with self._changed:
                for expert, (future, _) in reading.items():
                    self._residency.drop(layer, expert)
                    del self._held[self._key(layer, expert)]
                    future.set_exception(error)
            raise
        with self._changed:
            self._read_bytes += sum(record.layout.nbytes for record in records.values())
        for expert, (future, buffer) in reading.items():
            future.set_result(_Held(buffer, records[expert].weights(buffer)))

    def _count_wait(self, seconds: float) -> None:
        with self._changed:
            self._wait_seconds += seconds

    def _release(self, layer: int, group: ExpertGroup) -> None:
        with self._changed:
            self._residency.release(layer, group)
            self._changed.notify_all()

    def _key(self, layer: int, expert: int) -> int:
        return layer * self.size_LE.shape[1] + expert


class StoredExperts(Sequence[DenseWeights]):
    """The experts of a layer of a store: the sequence that `ExpertWeights` is.

    Parameters
    ----------
    store
        The store.
    layer
        The index of the layer in it.
    """

    def __init__(self, store: ExpertStore, layer: int) -> None:
        self.store, self.layer = store, layer

    def __len__(self) -> int:
        return int(self.store.size_LE.shape[1])

    def __getitem__(self, index: Any) -> Any:
        """Return one expert, which is read for the caller alone."""
        return self.store.read_copy(self.layer, index)

    def run_call(
        self,
        experts: Sequence[int],
        tokens: int,
        compute: Callable[[Mapping[int, DenseWeights]], None],
    ) -> None:
        """Let a call compute with each group of its experts, as `ExpertStore.run_call`.

        Parameters
        ----------
        experts : sequence of int
            Ids of the experts that the call chose.
        tokens : int
            Number of tokens of the call.
        compute : callable
            Computes with a group of experts, which it gets by their ids.
        """
        self.store.run_call(self.layer, experts, tokens, compute)


def find_store(model: Any) -> ExpertStore | None:
    """Return the store that holds the experts of a model, if there is one."""
    for layer in getattr(getattr(model, "weights", None), "layers", ()):
        experts = getattr(layer.feed_forward, "experts", None)
        if isinstance(experts, StoredExperts):
            return experts.store
    return None


def store_stats(model: Any) -> StoreStats | None:
    """Return the statistics of a model's store, if it has one."""
    store = find_store(model)
    return None if store is None else store.stats


def _records(layer: int, experts: ExpertWeights) -> list[ExpertRecord]:
    return [
        ExpertRecord.of(f"layer {layer}, expert {index} of this rank", expert)
        for index, expert in enumerate(experts)
    ]
