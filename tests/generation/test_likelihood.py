"""likelihood: the bits of transformers' logits in the same windows, every token once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.generation import likelihood
from mimo_v2_flash.generation.likelihood import total_bits
from mimo_v2_flash.layers.nonfinite import NonFiniteError
from mimo_v2_flash.model_runner import ModelRunner
from tests.support.engine_model import HistoryModel
from tests.support.tiny import random_tokens, running, tiny

BEGIN = 60


def expected_bits(token_T, length: int) -> float:
    """Return the bits under transformers' model, window by window, in float64."""
    bits = 0.0
    for start in range(0, len(token_T), length):
        target = torch.tensor(token_T[start : start + length]).long()
        input_T = torch.tensor([BEGIN, *target[:-1]])
        with torch.no_grad():
            logits = tiny().oracle(input_T[None], use_cache=False).logits[0].double()
        bits += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
    return bits / np.log(2)


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 99))
def test_bits_are_those_of_transformers(count, length, seed):
    token_T = random_tokens(tiny(), count, seed=seed)
    actual = total_bits(running(tiny()), token_T, length=length, begin=BEGIN)
    assert actual == pytest.approx(expected_bits(token_T, length), rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_long_windows_go_in_chunks(monkeypatch, chunk):
    token_T, sizes = random_tokens(tiny(), 23), []
    whole = total_bits(running(tiny()), token_T, length=11, begin=BEGIN)
    monkeypatch.setattr(likelihood, "CHUNK", chunk)
    actual = total_bits(running(tiny()), token_T, length=11, begin=BEGIN, advance=sizes.append)
    assert actual == pytest.approx(whole, rel=1e-6)
    assert sum(sizes) == 23
    assert max(sizes) == chunk


@pytest.mark.parametrize("length", [1, 5, 16, 23])
def test_windows_are_computed_together_where_they_are_short(monkeypatch, length):
    """No step has more tokens than a chunk, and none could have another window."""
    monkeypatch.setattr(likelihood, "CHUNK", 16)
    token_T, steps = random_tokens(tiny(), 23), []
    model, forward = running(tiny()), ModelRunner.forward

    def counting_forward(runner, output, step, cache, **options):
        steps.append(step.count_B.tolist())
        return forward(runner, output, step, cache, **options)

    monkeypatch.setattr(ModelRunner, "forward", counting_forward)
    total_bits(model, token_T, length=length, begin=BEGIN)
    flat = [count for counts in steps for count in counts if count]
    assert sum(flat) == 23
    assert len(steps) == {1: 2, 5: 2, 16: 2, 23: 2}[length]
    assert max(map(sum, steps)) <= 16


def test_a_row_that_is_not_finite_is_an_error():
    with pytest.raises(NonFiniteError, match="row 0"):
        total_bits(HistoryModel(vocabulary=61, nan_after=5), [1, 5, 7], length=3, begin=BEGIN)


@pytest.mark.parametrize("length", [0, -1, 8193])
def test_a_window_that_is_no_window_is_refused(length):
    with pytest.raises(ValueError, match=rf"length is {length}, allowed is 1\.\.8192"):
        total_bits(running(tiny()), [1], length=length, begin=BEGIN)


@pytest.mark.parametrize("token_T", [[], [61]])
def test_tokens_are_checked_before_anything_is_computed(token_T):
    sizes = []
    with pytest.raises(ValueError, match="token id"):
        total_bits(running(tiny()), token_T, length=1, begin=BEGIN, advance=sizes.append)
    assert sizes == []
