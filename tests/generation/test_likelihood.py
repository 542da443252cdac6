"""likelihood: the bits of transformers' logits in the same windows, every token once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.generation import likelihood
from mimo_v2_flash.generation.likelihood import total_bits, windows
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


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 50))
def test_every_token_is_predicted_once_after_those_before_it_in_its_window(token_T, length):
    pairs = list(windows(token_T, length=length, begin=BEGIN))
    assert [token for _, target_T in pairs for token in target_T] == token_T
    assert all(len(target_T) == length for _, target_T in pairs[:-1])
    for input_T, target_T in pairs:
        assert [*input_T, target_T[-1]] == [BEGIN, *target_T]


class Certain:
    """A model that is certain that token t + 1 follows token t."""

    config, max_length = tiny().config, 8192

    def new_cache(self, *_):
        """Return None: this model needs no cache."""

    def step(self, token_BT, position_BT, cache):
        """Return logits so far apart that exp overflows unless they are shifted first."""
        return np.float32(2000) * np.eye(61, dtype=np.float32)[(np.array(token_BT) + 1) % 61]


def test_logits_far_apart_do_not_overflow():
    assert total_bits(Certain(), [0, 1, 2], length=3, begin=60) == 0
    assert total_bits(Certain(), [5], length=3, begin=60) == pytest.approx(2000 / np.log(2))


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
