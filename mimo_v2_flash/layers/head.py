"""From the stream to logits: norm, this rank's words, and the words and rows of all ranks."""

from typing import Any

import numpy as np

from mimo_v2_flash.backends import Backend
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
    backend
        Where it runs.
    ranks
        Those that rows and vocabulary are split over.
    """

    def __init__(self, config: MiMoConfig, backend: Backend, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._program = backend.compile(predicted)

    def __call__(
        self, x_BnD: np.ndarray, weights: ModelWeights, *, rows: slice, batch_size: int
    ) -> np.ndarray:
        """Return every row's logits, float32 [batch_size, n, vocab], from the stream of `rows`."""
        (_, n, _), V = x_BnD.shape, self._config.vocab_size
        matrices = weights.final_norm_D, weights.w_logits_VD
        share_BnV = self._program(x_BnD, *matrices, epsilon=self._config.layernorm_epsilon)
        if self._ranks.world.size == 1:
            return np.asarray(share_BnV)
        words = self._ranks.share.part(V)
        logits_BnV = np.zeros((batch_size, n, V), np.float32)
        logits_BnV[rows, :, words.start : words.stop] = share_BnV
        return self._ranks.world.all_sum(logits_BnV)  # all but one rank give zero


def predicted(x_BTD: Any, weight_D: Any, w_VD: Any, *, epsilon: float) -> Any:
    """Return the logits of the token after each, `logits_BTV`, float32."""
    B, T, D = x_BTD.shape
    y_BTD = rmsnorm(x_BTD, weight_D, epsilon=epsilon)
    return np.reshape(lm_head(np.reshape(y_BTD, (B * T, D)), w_VD), (B, T, w_VD.shape[0]))
