"""Selection of the next tokens: argmax in the model's program if greedy, else host sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .sampling import Sampler, SamplingParams, check_logits

if TYPE_CHECKING:
    import numpy as np

    from mimo_v2_flash.kv_cache import HybridCache
    from mimo_v2_flash.model import MiMoV2FlashModel

    from .loop import TokenSelector

__all__ = ["make_token_selector"]


def make_token_selector(
    model: MiMoV2FlashModel, cache: HybridCache, settings: SamplingParams, seed: int
) -> TokenSelector:
    """Return the function that runs a step and selects the next token of each active row.

    Greedy selection brings two numbers per row to the host, sampling the logits of the whole
    vocabulary.

    Raises
    ------
    ValueError
        If the seed is not allowed. The returned function raises it if a row's logits are unusable.
    """
    sampler = Sampler(settings, seed)

    def select_greedy(
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        last_B: np.ndarray,
        rows: Sequence[int],
        _: Sequence[Sequence[int]],
    ) -> np.ndarray:
        token_B1, logit_B1 = model.greedy(token_BT, position_BT, cache, at=last_B[:, None])
        for row in rows:
            check_logits(logit_B1[row], f"row {row}")
        return token_B1[list(rows), 0]

    def sample(
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        last_B: np.ndarray,
        rows: Sequence[int],
        histories: Sequence[Sequence[int]],
    ) -> np.ndarray:
        logits_B1V = model.step(token_BT, position_BT, cache, logits_at=last_B[:, None])
        return sampler.draw(logits_B1V[list(rows), 0], rows, histories)

    is_greedy = (settings.temperature, settings.repetition_penalty) == (0, 1)
    return select_greedy if is_greedy else sample
