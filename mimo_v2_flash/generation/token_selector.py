"""Selection of the next tokens: argmax in the model's program if greedy, else host sampling.

The tokens of `suppress_tokens` are never selected. They are no part of a program: the host masks
their logits, and where the argmax of a program is one of them, which is rare, the same step runs
once more for its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .sampling import Sampler, check_logits

if TYPE_CHECKING:
    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .generation_config import GenerationConfig
    from .loop import TokenSelector

__all__ = ["make_token_selector"]


def make_token_selector(
    model: MiMoV2FlashModel, cache: HybridCache, settings: GenerationConfig, seed: int
) -> TokenSelector:
    """Return the function that runs a step and selects the next token of each active row.

    Greedy selection brings two numbers per row to the host, sampling the logits of the whole
    vocabulary.

    Raises
    ------
    ValueError
        If the seed is not allowed. The returned function raises it if a row's logits are unusable.
    """
    sampler, suppressed = Sampler(settings, seed), np.array(settings.suppress_tokens, int)

    def sample(
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        last_B: np.ndarray,
        rows: Sequence[int],
        histories: Sequence[Sequence[int]],
    ) -> np.ndarray:
        logits_B1V = model.step(token_BT, position_BT, cache, logits_at=last_B[:, None])
        logits_NV = logits_B1V[list(rows), 0]
        logits_NV[:, suppressed] = -np.inf
        return sampler.draw(logits_NV, rows, histories)

    def select_greedy(
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        last_B: np.ndarray,
        rows: Sequence[int],
        histories: Sequence[Sequence[int]],
    ) -> np.ndarray:
        token_B1, logit_B1 = model.greedy(token_BT, position_BT, cache, at=last_B[:, None])
        token_N = token_B1[list(rows), 0]
        if np.isin(token_N, suppressed).any():
            return sample(token_BT, position_BT, last_B, rows, histories)
        for row in rows:
            check_logits(logit_B1[row], f"row {row}")
        return token_N

    is_greedy = (settings.temperature, settings.repetition_penalty) == (0, 1)
    return select_greedy if is_greedy else sample
