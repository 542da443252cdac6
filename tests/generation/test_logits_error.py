"""The error of logits: each number is its definition over all tokens of all windows."""

import numpy as np
import pytest

from mimo_v2_flash.generation import logits_error as module
from mimo_v2_flash.generation.likelihood import total_bits
from mimo_v2_flash.generation.logits_error import ErrorSums, logits_error
from tests.support.tiny import Recipe, random_tokens, running, tiny

BEGIN, WINDOWS = 60, {"length": 11, "begin": 60}


def log_softmax(score_TV: np.ndarray) -> np.ndarray:
    return score_TV - np.log(np.exp(score_TV).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def models():
    return tuple(running(tiny(Recipe(seed=seed))) for seed in (0, 1))


def test_every_number_is_its_definition(models):
    """Of two models that have nothing in common, so that each number is far from zero."""
    token_T, parts = random_tokens(tiny(), 25), []
    for start in range(0, 25, 11):
        window_T = token_T[start : start + 11]
        input_T = np.concatenate([[BEGIN], window_T[:-1]])
        parts.append([model.forward([input_T])[0].astype(np.float64) for model in models])
    logits_TV, reference_TV = map(np.concatenate, zip(*parts, strict=True))
    error = logits_error(*models, token_T, **WINDOWS)
    difference_TV, row_T = logits_TV - reference_TV, np.arange(25)
    score_TV, expected_TV = log_softmax(logits_TV), log_softmax(reference_TV)
    assert error == pytest.approx(
        (
            np.abs(difference_TV).max() / np.ptp(reference_TV),
            np.sqrt(np.mean(difference_TV**2)) / reference_TV.std(),
            np.mean(np.sum(np.exp(expected_TV) * (expected_TV - score_TV), axis=1)),
            np.mean(logits_TV.argmax(axis=1) == reference_TV.argmax(axis=1)),
            -score_TV[row_T, token_T].sum() / np.log(2),
            -expected_TV[row_T, token_T].sum() / np.log(2),
        ),
        rel=1e-4,
    )


def test_bits_are_those_of_the_likelihood(models):
    token_T = random_tokens(tiny(), 25)
    error = logits_error(*models, token_T, **WINDOWS)
    bits = [total_bits(model, token_T, **WINDOWS) for model in models]
    assert (error.bits, error.reference_bits) == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 4])
def test_long_windows_go_in_chunks(models, monkeypatch, chunk):
    token_T, sizes = random_tokens(tiny(), 25), []
    whole = logits_error(*models, token_T, **WINDOWS)
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert logits_error(*models, token_T, advance=sizes.append, **WINDOWS) == pytest.approx(
        whole, rel=1e-4
    )
    assert sum(sizes) == 25
    assert max(sizes) == chunk


def test_a_model_is_exactly_itself(models):
    error = logits_error(models[0], models[0], random_tokens(tiny(), 25), **WINDOWS)
    assert error[:4] == (0, 0, 0, 1)


def test_large_logits_are_no_trouble():
    sums, target_T = ErrorSums(), np.zeros(2, int)
    logits_TV = np.array([[1e4, 0], [0, 1e4]], np.float32)
    sums.add(logits_TV, logits_TV[::-1], target_T)
    error = sums.error()
    assert error.same_top1 == 0
    assert error.kl_nats == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("tokens", "length", "message"),
    [
        ([1], 0, "length is 0, allowed is"),
        ([], 5, "must not be empty"),
        ([61], 5, "outside of the vocabulary"),
    ],
)
def test_bad_windows_and_tokens_are_named(models, tokens, length, message):
    with pytest.raises(ValueError, match=message):
        logits_error(*models, tokens, length=length, begin=BEGIN)
