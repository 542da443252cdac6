"""End-to-end equality with transformers: the same logits and tokens, however the model is run.

1. One prefill gives transformers' logits. 2. So does any chunking of any ragged batch. 3. Any
number of ranks, split in any way, gives the result of one rank: `test_equality_of_ranks`.
"""

import ml_dtypes
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from tests.support.drawn import seeds
from tests.support.oracle import assert_same_logits, decided, decided_tokens
from tests.support.rows import chunkings, prefill
from tests.support.tiny import (
    FULL,
    KINDS,
    SLIDING,
    Recipe,
    built,
    loaded,
    random_tokens,
    recipes,
    running,
    tiny,
    with_experts,
)

LEAST = Recipe(
    layers=(KINDS[3],),
    num_kv_heads=1,
    queries_per_kv_head=2,
    window=1,
    experts=2,
    experts_per_token=1,
)
MOST = Recipe(layers=(*KINDS, KINDS[3]), num_kv_heads=4, window=40, experts=9, experts_per_token=8)


# 1. One prefill is transformers.


@settings(max_examples=25)
@given(recipes(), st.integers(1, 130), seeds)
@example(LEAST, 50, 0)
@example(MOST, 130, 0)
def test_one_prefill_is_transformers(recipe, length, seed):
    model = tiny(recipe)
    token_T = random_tokens(model, length, seed=seed)
    assert_same_logits(running(model).forward([token_T])[0], decided(model, token_T))


@pytest.mark.filterwarnings("ignore:.*not F32. other experts may be chosen")
@settings(max_examples=8)
@given(recipes(), seeds)
def test_weights_stored_in_bfloat16_are_what_they_round_to(recipe, seed):
    oracle = built(recipe)
    for weight in oracle.parameters():
        weight.data = weight.data.bfloat16()
    stored = loaded(oracle)
    assert stored.weights.w_logits_VD.dtype == ml_dtypes.bfloat16
    model = stored._replace(oracle=oracle.float())
    token_T = random_tokens(model, 20, seed=seed)
    assert_same_logits(running(model).forward([token_T])[0], decided(model, token_T))


@settings(max_examples=15)
@given(recipes(), st.permutations(range(11)), st.integers(2, 11), seeds)
@example(Recipe(), [6, 2, 5, 3, 0, 1, 4], 4, 0)
def test_a_subset_of_the_experts_is_the_model_that_transformers_builds_of_them(
    recipe, order, count, seed
):
    whole = tiny(recipe)
    experts = [expert for expert in order if expert < recipe.experts][:count]
    token_T = random_tokens(whole, 20, seed=seed)
    expected = decided(
        whole._replace(oracle=with_experts(whole.oracle, recipe, sorted(experts))), token_T
    )
    assert_same_logits(running(whole, expert_subset=experts).forward([token_T])[0], expected)


# 2. Any chunking of any ragged batch is transformers.


@settings(max_examples=25)
@given(recipes(), st.lists(st.integers(1, 70), min_size=1, max_size=3), st.data(), seeds)
def test_any_chunking_of_any_ragged_batch_is_transformers(recipe, lengths, data, seed):
    model = tiny(recipe)
    rows = [random_tokens(model, length, seed=seed + row) for row, length in enumerate(lengths)]
    expected = [decided(model, row) for row in rows]
    chunks = [data.draw(chunkings(length)) for length in lengths]
    ours = running(model, max_step=data.draw(st.sampled_from([1, 2, 7, 512])))
    cache = ours.new_cache(len(rows), max(lengths) + data.draw(st.integers(0, 9)))
    for logits_TV, expected_TV in zip(prefill(ours, cache, rows, chunks), expected, strict=True):
        assert_same_logits(logits_TV, expected_TV)


@settings(max_examples=15)
@given(recipes(), st.integers(1, 20))
@example(MOST, 1)
def test_token_by_token_around_the_ring_is_transformers(recipe, more):
    model = tiny(recipe)
    length = 3 * (recipe.window + MAX_DRAFT_TOKENS) + more
    token_T = random_tokens(model, length)
    expected, ours = decided(model, token_T), running(model)
    logits_TV, *_ = prefill(ours, ours.new_cache(1, length), [token_T], [[1] * length])
    assert_same_logits(logits_TV, expected)


@settings(max_examples=15)
@given(recipes(), st.lists(st.integers(1, 30), min_size=1, max_size=3), seeds)
@example(MOST, [9, 1, 30], 0)
def test_64_greedy_tokens_of_ragged_prompts_are_those_of_transformers(recipe, lengths, seed):
    model = tiny(recipe)
    prompts = [random_tokens(model, length, seed=seed + row) for row, length in enumerate(lengths)]
    completions = running(model).generate(prompts, max_new_tokens=64, eos_token_id=[])
    for prompt, new in zip(prompts, completions, strict=True):
        # By induction: each token is transformers' argmax after the tokens before it.
        logits_TV = decided(model, [*prompt, *new])[len(prompt) - 1 : -1]
        assert new == decided_tokens(logits_TV)


def test_4096_tokens_through_a_window_of_128_in_chunks_are_one_prefill():
    # Every expert is chosen: of 4,096 tokens some would be undecided between two.
    layers = ((FULL, "dense"), (SLIDING, "sparse"), (SLIDING, "dense"), (FULL, "sparse"))
    sizes = {"num_kv_heads": 1, "queries_per_kv_head": 2, "experts": 2, "experts_per_token": 2}
    model = tiny(Recipe(layers=layers, window=128, **sizes))
    token_T = random_tokens(model, 4096)
    ours = running(model, max_step=4096)
    expected_TV = ours.forward([token_T])[0]
    for chunks in ([1000, 3, 64] * 3, [131, 132, 133, 1, 128, 7, 500] * 3):
        rest = 4096 - sum(chunks)
        logits_TV, *_ = prefill(ours, ours.new_cache(1, 4096), [token_T], [[*chunks, rest]])
        assert_same_logits(logits_TV, expected_TV)
