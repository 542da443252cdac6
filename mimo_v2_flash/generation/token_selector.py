"""The next tokens of a step: chosen where programs run if greedy, drawn on the host otherwise."""

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
    """Return how the tokens that follow a step are chosen.

    Greedy choices bring two numbers per row to the host, others a logit per word.

    Raises
    ------
    ValueError
        If the seed is not allowed; of what is returned, if a row's logits are unusable.
    """
    sampler = Sampler(settings, seed)

    def greedy(
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

    def drawn(
        token_BT: np.ndarray,
        position_BT: np.ndarray,
        last_B: np.ndarray,
        rows: Sequence[int],
        histories: Sequence[Sequence[int]],
    ) -> np.ndarray:
        logits_B1V = model.step(token_BT, position_BT, cache, logits_at=last_B[:, None])
        return sampler.draw(logits_B1V[list(rows), 0], rows, histories)

    return greedy if (settings.temperature, settings.repetition_penalty) == (0, 1) else drawn
