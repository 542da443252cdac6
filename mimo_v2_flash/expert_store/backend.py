"""The backend of a model whose experts are in a store: weights go to their place as to a device."""

from collections.abc import Callable
from typing import Any

from mimo_v2_flash.checkpoint.params import ModelWeights
from mimo_v2_flash.execution import Backend

from .eviction_policies import Policy
from .store import ExpertStore, StoredExperts

__all__ = ["ExpertStoreBackend"]


class ExpertStoreBackend:
    """A backend that puts the experts of each model into a store of its own.

    Parameters
    ----------
    backend
        The eager backend that everything else is of.
    budget, policy
        As of `ExpertStore`.

    Raises
    ------
    ValueError
        If the backend compiles programs, whose weights are on a device.
    """

    def __init__(self, backend: Backend, budget: int, policy: Policy) -> None:
        if backend.execution_mode != "eager":
            raise ValueError("expert_cache is for backend numpy")
        self.execution_mode, self._backend = backend.execution_mode, backend
        self._budget, self._policy = budget, policy

    def to_device(self, tree: Any) -> Any:
        """Return `tree`; of a model's weights, with experts in a store."""
        tree = self._backend.to_device(tree)
        if not isinstance(tree, ModelWeights):
            return tree
        store = ExpertStore(tree, self._budget, self._policy)
        layers = list(tree.layers)
        for index, number in enumerate(store.layer_ids):
            mixture: Any = layers[number].feed_forward
            experts = StoredExperts(store, index)
            layers[number] = layers[number]._replace(feed_forward=mixture._replace(experts=experts))
        return tree._replace(layers=tuple(layers))

    def compile(
        self, function: Callable[..., Any], *, donate: str | None = None
    ) -> Callable[..., Any]:
        """Return the program of the backend."""
        return self._backend.compile(function, donate=donate)
