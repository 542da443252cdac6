"""The choice of the next tokens from logits, for all rows of a step at once.

A filter is a threshold: every token whose scaled logit reaches it survives, so no order of sorting
decides. What is drawn is the argmax of scaled logits plus `GumbelNoise`. A is the number of tokens
that survive.

Source: penalties: CTRL, arXiv:1909.05858, section 4.1, negative logits as in transformers, and
OpenAI's API reference; top-p: arXiv:1904.09751; min-p: arXiv:2407.01082. The order is that of
transformers 5.23 (`generation/utils.py`, `_get_logits_processor`). MiMo: V = 152,576.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from .noise import GumbelNoise
from .sampling_params import SamplingParams

__all__ = ["NO_TOKEN", "Draft", "Draw", "Sampler"]

NO_TOKEN = -1

ACCEPTANCE, RESIDUAL = 1, 2  # streams of noise: independent of what a draft was drawn with
FIRST_CANDIDATES = 64  # largest logits that top-p sorts first; 16 times as many if too few


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A token that an MTP head proposes.

    Attributes
    ----------
    token
        Its id.
    token_A, probability_A
        The distribution that it was drawn from, if it is to be verified by rejection sampling; None
        if it is accepted where the model's choice is the same.
    """

    token: int
    token_A: np.ndarray | None = None
    probability_A: np.ndarray | None = None

    def probability(self, token_A: np.ndarray) -> np.ndarray:
        """Return the probability that tokens, in ascending order, had as drafts."""
        assert self.token_A is not None
        assert self.probability_A is not None
        index_A = np.minimum(np.searchsorted(self.token_A, token_A), len(self.token_A) - 1)
        return np.where(self.token_A[index_A] == token_A, self.probability_A[index_A], 0)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What the choice of one row's next token depends on, beside its logits.

    Attributes
    ----------
    params
        The request's sampling parameters.
    seed, answer, position
        What addresses the row's noise: the request's seed, the index of the answer, and the
        position of the token that is chosen.
    prompt_tokens, new_tokens
        The row's tokens so far; only penalties read them.
    forbidden
        Token ids that may not be chosen: end tokens before `min_tokens`.
    mask_V
        Which tokens a constraint allows; None for all.
    draft
        The draft of the token, if there is one.
    """

    params: SamplingParams
    seed: int
    answer: int
    position: int
    prompt_tokens: Sequence[int] = ()
    new_tokens: Sequence[int] = ()
    forbidden: Sequence[int] = ()
    mask_V: np.ndarray | None = None
    draft: Draft | None = None


class Sampler:
    """A chooser of tokens; it keeps no state of any row.

    Parameters
    ----------
    suppressed
        Token ids that are never chosen.
    """

    def __init__(self, suppressed: Collection[int] = ()) -> None:
        self._noise, self._suppressed_A = GumbelNoise(), np.array(sorted(suppressed), np.int64)

    @property
    def suppresses(self) -> bool:
        """Whether there are tokens that are never chosen: an argmax may be one of them."""
        return len(self._suppressed_A) > 0

    def __call__(self, logits_RV: np.ndarray, draws: Sequence[Draw]) -> np.ndarray:
        """Return token_R, int64: each row's next token, `NO_TOKEN` if all of them are forbidden.

        Parameters
        ----------
        logits_RV
            Logits, float32, of which no row holds NaN or +inf, or nothing but -inf.
        draws
            What each row's choice depends on.

        """
        token_R, survivors = self._survivors(logits_RV, draws)
        for row, (token_A, scaled_A) in survivors.items():
            draft = draws[row].draft
            has_odds = draft is not None and draft.token_A is not None
            choose = self._verify if has_odds else self._draw
            token_R[row] = choose(draws[row], token_A, scaled_A)
        return token_R

    def draft(self, logits_RV: np.ndarray, draws: Sequence[Draw]) -> list[Draft]:
        """Return a draft of each row's next token from the logits of an MTP head.

        The draft of a row without a seed is to be verified by rejection sampling.
        """
        token_R, survivors = self._survivors(logits_RV, draws)
        drafts = [Draft(int(token)) for token in token_R]
        for row, (token_A, scaled_A) in survivors.items():
            token = self._draw(draws[row], token_A, scaled_A)
            is_free = draws[row].params.seed is None
            odds = (token_A, probabilities(scaled_A)) if is_free else ()
            drafts[row] = Draft(token, *odds)
        return drafts

    def _survivors(
        self, logits_RV: np.ndarray, draws: Sequence[Draw]
    ) -> tuple[np.ndarray, dict[int, tuple[np.ndarray, np.ndarray]]]:
        """Return each row's best token, and (token_A, scaled_A) of the rows that are sampled."""
        score_RV = process_logits(logits_RV, draws)
        if len(self._suppressed_A):
            score_RV = np.array(score_RV) if score_RV is logits_RV else score_RV
            score_RV[:, self._suppressed_A] = -np.inf
        token_R = np.argmax(score_RV, axis=1)
        best_R = score_RV[np.arange(len(token_R)), token_R]
        token_R[best_R == -np.inf] = NO_TOKEN
        rows = [
            row
            for row, draw in enumerate(draws)
            if draw.params.temperature > 0 and token_R[row] != NO_TOKEN
        ]
        survivors = {}
        if rows:
            sampled = [draws[row].params for row in rows]
            scaled_SV = scale(score_RV[rows], sampled)
            threshold_S = thresholds(scaled_SV, sampled)
            for row, scaled_V, threshold in zip(rows, scaled_SV, threshold_S, strict=True):
                (token_A,) = (scaled_V >= threshold).nonzero()
                survivors[row] = token_A, scaled_V[token_A]
        return token_R, survivors

    def _draw(self, draw: Draw, token_A: np.ndarray, score_A: np.ndarray, stream: int = 0) -> int:
        """Return a token of the distribution whose logits, up to a constant, are `score_A`."""
        noise_A = self._noise(draw.seed, draw.answer, draw.position, token_A, stream)
        return int(token_A[np.argmax(score_A + noise_A)])

    def _verify(self, draw: Draw, token_A: np.ndarray, scaled_A: np.ndarray) -> int:
        """Return the draft, or a token that makes up for its refusal: rejection sampling.

        The draft d, drawn from q, is accepted with probability min(1, p(d) / q(d)); else the token
        is drawn from max(p - q, 0). It is of the distribution p, whatever q is.

        Source: Leviathan et al., arXiv:2211.17192, section 2.3.
        """
        draft = draw.draft
        assert draft is not None
        p_A, q_A = probabilities(scaled_A), draft.probability(token_A)
        is_draft_A = token_A == draft.token
        (drafted,) = draft.probability(np.array([draft.token]))
        zero = np.zeros(1, np.int64)
        (uniform,) = self._noise.uniform(draw.seed, draw.answer, draw.position, zero, ACCEPTANCE)
        if uniform * drafted < np.sum(p_A[is_draft_A]):
            return draft.token
        with np.errstate(divide="ignore"):
            residual_A = np.log(np.maximum(p_A - q_A, 0))
        if np.max(residual_A) == -np.inf:  # p and q are equal to rounding
            residual_A = scaled_A
        return self._draw(draw, token_A, residual_A, RESIDUAL)


def probabilities(scaled_A: np.ndarray) -> np.ndarray:
    """Return the softmax of the logits of surviving tokens, float64."""
    weight_A = np.exp(scaled_A.astype(np.float64))
    return weight_A / np.sum(weight_A)


def process_logits(logits_RV: np.ndarray, draws: Sequence[Draw]) -> np.ndarray:
    """Return the logits after biases, penalties and masks; -inf marks forbidden tokens."""
    changed = [row for row, draw in enumerate(draws) if not _keeps_logits(draw)]
    if not changed:
        return logits_RV
    score_RV = np.array(logits_RV, np.float32)
    for row in changed:
        draw, score_V = draws[row], score_RV[row]
        if draw.params.logit_bias:
            bias = draw.params.logit_bias
            score_V[list(bias)] += np.fromiter(bias.values(), np.float32)
        if draw.params.has_penalties:
            penalise(score_V, draw)
        score_V[list(draw.forbidden)] = -np.inf
        if draw.mask_V is not None:
            score_V[~draw.mask_V] = -np.inf
    return score_RV


def _keeps_logits(draw: Draw) -> bool:
    params = draw.params
    return not (
        params.logit_bias or params.has_penalties or len(draw.forbidden) or draw.mask_V is not None
    )


def penalise(score_V: np.ndarray, draw: Draw) -> None:
    """Apply a row's penalties to its logits, in place."""
    params = draw.params
    new_token_A, count_A = np.unique(np.asarray(draw.new_tokens, np.int64), return_counts=True)
    if params.repetition_penalty != 1:
        token_A = np.union1d(np.asarray(draw.prompt_tokens, np.int64), new_token_A)
        old_A, penalty = score_V[token_A], np.float32(params.repetition_penalty)
        score_V[token_A] = np.where(old_A < 0, old_A * penalty, old_A / penalty)
    score_V[new_token_A] -= (params.presence_penalty + params.frequency_penalty * count_A).astype(
        np.float32
    )


def scale(score_SV: np.ndarray, params: Sequence[SamplingParams]) -> np.ndarray:
    """Return logits less their row's largest one, divided by the temperature: float32, <= 0."""
    temperature_S1 = np.array([[each.temperature] for each in params], np.float32)
    scaled_SV = score_SV - np.max(score_SV, axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the best to -inf, rightly
        scaled_SV /= np.maximum(temperature_S1, np.finfo(np.float32).tiny)
    return scaled_SV


def thresholds(scaled_SV: np.ndarray, params: Sequence[SamplingParams]) -> np.ndarray:
    """Return threshold_S: the least scaled logit that survives top-k, top-p and min-p.

    Only the largest logits are sorted: as many as top-k keeps, or enough for top-p.
    """
    rows, V = scaled_SV.shape
    k_S = np.array([min(int(each.top_k), V) if each.top_k > 0 else V for each in params])
    p_S = np.array([each.top_p for each in params], np.float64)
    with np.errstate(divide="ignore"):
        threshold_S = np.log(np.array([each.min_p for each in params], np.float64))
    threshold_S = np.maximum(threshold_S, np.finfo(np.float64).min)  # -inf never survives
    total_S = np.zeros(rows)  # of all weights, where top-p takes its part of them
    is_whole_S = (k_S == V) & (p_S < 1)
    total_S[is_whole_S] = np.sum(np.exp(scaled_SV[is_whole_S]), axis=1, dtype=np.float64)
    (open_J,) = np.nonzero((k_S < V) | (p_S < 1))
    candidates = max(FIRST_CANDIDATES, int(np.max(k_S, where=k_S < V, initial=1)))
    while len(open_J):
        candidates = min(V, candidates)
        largest_JC = np.partition(scaled_SV[open_J], V - candidates, axis=1)[:, V - candidates :]
        largest_JC = np.sort(largest_JC, axis=1)[:, ::-1]
        last_J, is_enough_J = _last(largest_JC, k_S[open_J], p_S[open_J], total_S[open_J])
        least_J = np.take_along_axis(largest_JC, last_J[:, None], axis=1)[:, 0]
        done_J = open_J[is_enough_J]
        threshold_S[done_J] = np.maximum(threshold_S[done_J], least_J[is_enough_J])
        open_J, candidates = open_J[~is_enough_J], candidates * 16
    return threshold_S


def _last(
    largest_JC: np.ndarray, k_J: np.ndarray, p_J: np.ndarray, total_J: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the last logit that top-k and top-p keep, and whether it is among C."""
    C = largest_JC.shape[1]
    weight_JC = np.exp(largest_JC).astype(np.float64)
    weight_JC[np.arange(C) >= k_J[:, None]] = 0
    needed_J = p_J * np.where(total_J > 0, total_J, np.sum(weight_JC, axis=1))
    is_short_JC = np.cumsum(weight_JC, axis=1) < needed_J[:, None]
    top_p_J = np.where(p_J < 1, np.count_nonzero(is_short_JC, axis=1), C)
    last_J = np.minimum(np.minimum(k_J, C) - 1, top_p_J)
    return np.minimum(last_J, C - 1), (k_J <= C) | (top_p_J < C)
