"""Sampling by the formulas of its sources, in float64 and one token at a time."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers.generation import logits_process as process

from mimo_v2_flash.engine.noise import GumbelNoise
from mimo_v2_flash.engine.sampler import Draw

__all__ = ["probabilities", "processed", "token_of"]


def processed(logits_V: np.ndarray, draw: Draw) -> list[float]:
    """Return a row's logits after bias, penalties and masks.

    OpenAI's API reference: mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) *
    alpha_presence; `logit_bias` is added to the logits. CTRL, section 4.1: a token of the list is
    divided by theta; transformers multiplies where that would make it more probable.
    """
    params, score_V = draw.params, list(map(float, logits_V))
    for token, bias in params.logit_bias.items():
        score_V[token] += bias
    for token in {*draw.prompt_tokens, *draw.new_tokens}:
        if score_V[token] < 0:
            score_V[token] *= params.repetition_penalty
        else:
            score_V[token] /= params.repetition_penalty
    for token in range(len(score_V)):
        count = list(draw.new_tokens).count(token)
        score_V[token] -= count * params.frequency_penalty
        score_V[token] -= float(count > 0) * params.presence_penalty
        if token in draw.forbidden or (draw.mask_V is not None and not draw.mask_V[token]):
            score_V[token] = -math.inf
    return score_V


def probabilities(logits_V: np.ndarray, draw: Draw) -> np.ndarray:
    """Return the distribution from which transformers draws; 0 where a filter removes a token."""
    params = draw.params
    steps = [
        process.TemperatureLogitsWarper(float(params.temperature)),
        process.TopKLogitsWarper(params.top_k or len(logits_V)),
        process.TopPLogitsWarper(float(params.top_p)),
        process.MinPLogitsWarper(float(params.min_p)),
    ]
    scores = torch.tensor(processed(logits_V, draw), dtype=torch.float64)[None]
    for step in steps:
        scores = step(None, scores)
    return scores.softmax(dim=-1)[0].numpy()


def token_of(probability_V: np.ndarray, draw: Draw) -> int:
    """Return the token whose log-probability plus noise is the largest."""
    noise_V = GumbelNoise()(draw.seed, draw.answer, draw.position, np.arange(len(probability_V)))
    with np.errstate(divide="ignore"):
        return int(np.argmax(np.log(probability_V) + noise_V))


def draws_of(params, count: int, **kwargs) -> Sequence[Draw]:
    """Return the draws of `count` positions of one answer."""
    return [Draw(params, 7, 0, position, **kwargs) for position in range(count)]
