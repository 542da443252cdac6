"""How often and when each expert of a model was used: what eviction policies decide by.

A use is a call of a layer that chose the expert, however many of the call's tokens did. Decayed
counts are halved, and rounded down, whenever a layer has seen `HALF_LIFE` more tokens.

Source: the periodic halving of TinyLFU, arXiv:1512.00727, section 3.3; the half-life of llama.cpp's
`llama-moe-cache.cpp`.
"""

import numpy as np

__all__ = ["HALF_LIFE", "AccessHistory"]

HALF_LIFE = 128  # tokens
MAX_SHIFT = 62  # of an int64 count


class AccessHistory:
    """The uses of every expert of a model; experts are indexed layer after layer.

    Parameters
    ----------
    layers, experts
        The number of layers with experts, and of experts in each.

    Attributes
    ----------
    count_K, last_use_K
        How often each expert was used, and the number of its last use; both 0 if never.
    """

    def __init__(self, layers: int, experts: int) -> None:
        keys, self.experts = layers * experts, experts
        self.count_K, self.last_use_K = np.zeros(keys, np.int64), np.zeros(keys, np.int64)
        self._decayed_K, self._period_K = np.zeros(keys, np.int64), np.zeros(keys, np.int64)
        self._tokens_L, self._uses = np.zeros(layers, np.int64), 0

    def add_call(self, keys: np.ndarray, tokens: int) -> None:
        """Count a use of each of `keys`, which one call of a layer with so many tokens chose."""
        layers = keys[:1] // self.experts
        self._tokens_L[layers] += tokens
        self._decayed_K[keys] = self.decayed_count(keys) + 1
        self._period_K[keys] = self._tokens_L[layers] // HALF_LIFE
        self.count_K[keys] += 1
        self.last_use_K[keys] = self._uses + 1 + np.arange(len(keys))
        self._uses += len(keys)

    def decayed_count(self, keys: np.ndarray) -> np.ndarray:
        """Return the decayed counts of `keys`, as of now."""
        period_K = self._tokens_L[keys // self.experts] // HALF_LIFE
        return self._decayed_K[keys] >> np.minimum(period_K - self._period_K[keys], MAX_SHIFT)
