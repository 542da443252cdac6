"""Log-probabilities of tokens under the model: before temperature, biases and penalties."""

import numpy as np

from .outputs import TokenLogprob

__all__ = ["token_logprobs"]


def token_logprobs(
    logits_RV: np.ndarray, token_R: np.ndarray, top: list[int]
) -> list[TokenLogprob]:
    """Return the `TokenLogprob` of each row's token; `top` is how many probable tokens to add.

    Parameters
    ----------
    logits_RV : array, float32
        Logits of each row.
    token_R : array of int
        Token that each row got.
    top : list of int
        How many of the most probable tokens to add, for each row.
    """
    score_RV = logits_RV.astype(np.float64)
    score_RV -= np.max(score_RV, axis=1, keepdims=True)
    total_R = np.log(np.sum(np.exp(score_RV), axis=1))
    chosen_R1 = np.take_along_axis(score_RV, np.asarray(token_R)[:, None], axis=1)
    rank_R = np.count_nonzero(score_RV >= chosen_R1, axis=1)
    return [
        TokenLogprob(
            int(token),
            float(chosen_R1[row, 0] - total_R[row]),
            int(rank_R[row]),
            _top(score_RV[row], top[row], total_R[row]),
        )
        for row, token in enumerate(token_R)
    ]


def _top(score_V: np.ndarray, count: int, total: float) -> tuple[tuple[int, float], ...]:
    """Return the `count` most probable tokens; of equal ones the lowest ids."""
    count = min(count, len(score_V))
    if not count:
        return ()
    least = np.partition(score_V, -count)[-count]
    token_A = np.flatnonzero(score_V >= least)
    token_A = token_A[np.argsort(-score_V[token_A], kind="stable")][:count]
    return tuple((int(token), float(score_V[token] - total)) for token in token_A)
