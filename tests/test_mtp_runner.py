"""MTP runner: heads have PyTorch's logits, however tokens are cut, batched, split over ranks.

Faults of a head hardly change how many drafts are accepted: its logits are what shows them.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import load_model
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support import shipped_heads
from tests.support.drawn import CACHED
from tests.support.mtp_oracle import head_logits, run_heads, with_heads
from tests.support.shipped import FOLDER
from tests.support.tiny import FULL, SLIDING, Recipe, recipes, running

TEXT = (Path(__file__).parents[1] / "LICENSE").read_text()

LAYERS = ((FULL, "dense"), (SLIDING, "sparse"))
RECIPE = Recipe(LAYERS, window=6, hidden=24, dense_width=30, experts=8, seed=5)
TOLERANCE = 1e-4  # of the range of the logits


def assert_agree(actual_TV, expected_TV) -> None:
    """Assert that logits agree where the oracle has some."""
    is_known_T = ~np.isnan(expected_TV).any(axis=1)
    if is_known_T.any():
        expected_TV = expected_TV[is_known_T]
        error = np.abs(actual_TV[is_known_T] - expected_TV).max()
        assert error <= TOLERANCE * np.ptp(expected_TV)


@st.composite
def cuts(draw, length: int, longest: int) -> list[int]:
    """Draw lengths of chunks: the ring keeps the hidden states of no longer ones."""
    chunks: list[int] = []
    while (rest := length - sum(chunks)) > 0:
        chunks.append(min(rest, draw(st.integers(1, longest))))
    return chunks


def test_the_shipped_heads_have_the_logits_of_the_trained_modules():
    model, tokenizer = load_model(FOLDER), load_tokenizer(FOLDER)
    token_T = prompt_tokens(tokenizer, TEXT)[:257]
    expected = shipped_heads.head_logits(token_T)
    for chunks in ([127, 127, 2], [1] * 5 + [3, 127, 121]):
        for head, logits_1TV in enumerate(run_heads(model, [token_T[:256]], chunks)):
            part_TV = logits_1TV[0, 1 + head :]
            assert_agree(part_TV, expected[head][: len(part_TV)])


@settings(max_examples=25)
@given(st.data())
def test_heads_are_pytorchs_on_drawn_models_however_tokens_are_cut(data):
    window = data.draw(st.integers(4, 12))
    layers = ((SLIDING, "dense"), *data.draw(recipes()).layers[:2])
    recipe = replace(data.draw(recipes()), window=window, layers=layers)
    model, heads = with_heads(recipe)
    length, rows = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 3))
    tokens = st.integers(0, recipe.vocabulary - 1)
    row = st.lists(tokens, min_size=length, max_size=length)
    token_BT = data.draw(st.lists(row, min_size=rows, max_size=rows))
    actual = run_heads(running(model), token_BT, data.draw(cuts(length, window - 2)))
    for row, token_T in enumerate(token_BT):
        for logits_BTV, expected_TV in zip(
            actual, head_logits(model.oracle, heads, token_T), strict=True
        ):
            assert_agree(logits_BTV[row], expected_TV)


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_heads_are_the_same_on_ranks(tensor_parallel):
    model, heads = with_heads(RECIPE)
    token_BT, chunks = np.arange(26).reshape(2, 13) % 7, [4, 1, 4, 4]
    plan = ParallelConfig(2, tensor_parallel, 2 // tensor_parallel)
    group = ThreadGroup(2)
    every = group.run(lambda _: run_heads(running(model, group=group, plan=plan), token_BT, chunks))
    for row, token_T in enumerate(token_BT.tolist()):
        expected = head_logits(model.oracle, heads, token_T)
        for logits_BTV, expected_TV in zip(every[0], expected, strict=True):
            assert_agree(logits_BTV[row], expected_TV)


@pytest.mark.parametrize("dtype", CACHED[1:], ids=str)
def test_a_narrow_cache_keeps_hidden_states_in_bfloat16(dtype):
    model, _ = with_heads(RECIPE)
    token_BT = np.arange(13)[None] % 7
    wide, narrow = (
        run_heads(running(model), token_BT, [4, 4, 4, 1], stored) for stored in (np.float32, dtype)
    )
    assert running(model).new_cache(1, 9, dtype, mtp_heads=1).layers[-1].k_ZKQ.dtype == CACHED[1]
    for one, other in zip(wide, narrow, strict=True):
        error = np.abs(one - other).max() / np.ptp(one)
        assert 1e-5 < error < 0.1


def test_a_cache_without_room_for_heads_is_the_models():
    model = running(with_heads(RECIPE).model)
    assert (model.mtp_heads, model.runner.mtp.heads(model.new_cache(1, 9))) == (3, 0)
    assert model.runner.mtp.heads(model.new_cache(1, 9, mtp_heads=2)) == 2
    with pytest.raises(ValueError, match="mtp_heads must be at most 3, got 4"):
        model.new_cache(1, 9, mtp_heads=4)


def test_a_window_shorter_than_a_step_of_drafts_has_no_heads():
    short = with_heads(replace(RECIPE, window=3)).model
    assert running(short).mtp_heads == 0
