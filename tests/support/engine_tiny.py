"""The small real model of the engine's tests, and the equality of answers that sums decide."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mimo_v2_flash import MiMoV2FlashModel
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.noise import GumbelNoise
from mimo_v2_flash.engine.outputs import Answer
from mimo_v2_flash.engine.sampler import Draw, process_logits, scale, thresholds
from tests.support.mtp_oracle import with_heads
from tests.support.oracle import UNDECIDED, oracle_output
from tests.support.tiny import FULL, SLIDING, Recipe, Tiny, running, tiny

__all__ = ["RECIPE", "assert_same_answer", "run_alone", "small_model"]

RECIPE = Recipe(layers=((FULL, "dense"), (SLIDING, "sparse"), (FULL, "sparse")), seed=3)
TOLERANCE = 2e-5  # of the range of the logits: each of two may be off by 1e-5


def small_model(**options: Any) -> MiMoV2FlashModel:
    """Return a model of three layers and three MTP heads, with sequences of up to 64 tokens."""
    return running(with_heads(RECIPE).model, max_length=64, **options)


def run_alone(
    model: MiMoV2FlashModel, prompt: Sequence[int], params: SamplingParams, **options: Any
) -> tuple[Answer, ...]:
    """Return the answers of a request that has an engine for itself."""
    with Engine(model, params.n, prefix_cache=0, **options) as engine:
        id_ = engine.submit(prompt, params)
        return engine.run()[id_].answers


def assert_same_answer(
    actual: Answer,
    expected: Answer,
    prompt: Sequence[int],
    params: SamplingParams,
    *,
    index: int = 0,
    model: Tiny | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Assert that answers are one, up to a token that is too close to call."""
    assert actual.error is None
    pairs = list(zip(actual.tokens, expected.tokens, strict=False))
    common = next((i for i, (one, two) in enumerate(pairs) if one != two), len(pairs))
    for one, two in zip((actual.logprobs or [])[:common], expected.logprobs or [], strict=False):
        assert (one.token, len(one.top)) == (two.token, len(two.top))
        assert abs(one.logprob - two.logprob) < 40 * tolerance
    if common == len(pairs):
        assert actual.tokens == expected.tokens
        assert actual.finish_reason == expected.finish_reason
        return
    known = [*prompt, *expected.tokens[:common]]
    logits_TV, lead = oracle_output(model or tiny(RECIPE), known)
    draw = Draw(params, params.seed or 0, index, len(known), prompt, expected.tokens[:common])
    gap = _gap(logits_TV[-1], draw, *pairs[common])
    assert gap < tolerance * np.ptp(logits_TV) or lead < UNDECIDED, (gap, pairs[common])


def _gap(logits_V: np.ndarray, draw: Draw, one: int, two: int) -> float:
    """Return by how much a token beats another one, or a filter's threshold."""
    score_1V = process_logits(logits_V[None].astype(np.float32), [draw])
    if not draw.params.temperature:
        return abs(float(score_1V[0, one] - score_1V[0, two]))
    scaled_1V = scale(score_1V, [draw.params])
    pair = scaled_1V[0, [one, two]].astype(np.float64)
    edge = np.min(np.abs(pair - thresholds(scaled_1V, [draw.params])))
    noise_V = GumbelNoise()(draw.seed, draw.answer, draw.position, np.arange(len(logits_V)))
    noisy = pair + noise_V[[one, two]]
    return float(min(edge, abs(noisy[0] - noisy[1])) * draw.params.temperature)
