"""From the stream to logits: norm, this rank's words, and the words and rows of all ranks."""

from typing import Any

import numpy as np

from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.kernels.lm_head import lm_head
from mimo_v2_flash.kernels.rmsnorm import rmsnorm
from mimo_v2_flash.weights.records import ModelWeights

from .ranks import Ranks

__all__ = ["Head"]


class Head:
    """The model's end.

    Parameters
    ----------
    config
        The model.
    ranks
        Those that rows and vocabulary are split over.
    """

    def __init__(self, config: MiMoConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks

    def __call__(
        self, x_BnD: Any, weights: ModelWeights, *, rows: slice, batch_size: int
    ) -> np.ndarray:
        """Return every row's logits, float32 [batch_size, n, vocab], from the stream of `rows`."""
        (_, n, D), V = x_BnD.shape, self._config.vocab_size
        y_BnD = rmsnorm(x_BnD, weights.final_norm_D, epsilon=self._config.layernorm_epsilon)
        share_NV = lm_head(np.reshape(y_BnD, (-1, D)), weights.w_logits_VD)
        if self._ranks.world.size == 1:
            return np.reshape(share_NV, (batch_size, n, V))
        words = self._ranks.share.part(V)
        logits_BnV = np.zeros((batch_size, n, V), np.float32)
        own = logits_BnV[rows, :, words.start : words.stop]
        own[:] = np.reshape(share_NV, own.shape)
        return self._ranks.world.all_sum(logits_BnV)  # all but one rank give zero
