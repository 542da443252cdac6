"""prefix_store: known beginnings are not computed again, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine import Engine, SamplingParams, prefix_store, scheduler
from mimo_v2_flash.engine.prefix_store import BLOCK, PrefixStore
from tests.support.engine_model import HistoryModel, logits_after
from tests.support.engine_oracle import answer_alone, step_until_idle, together

V, LENGTH, WINDOW = 29, 240, 128
ONE = SamplingParams(max_tokens=1)
LARGE = 1 << 30
KEY_BYTES = 8  # of a position of the model's layer: a key and a value


every_mode = pytest.mark.parametrize("pads_steps", [False, True], ids=["eager", "static"])


def engine_of(rows: int = 3, *, prefix_cache=LARGE, chunk: int = 512, window=WINDOW, **options):
    model = HistoryModel(V, LENGTH, window=window, **options)
    return Engine(model, rows, prefill_chunk=chunk, prefix_cache=prefix_cache)


def stem(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, 7]).integers(0, V, length).tolist()


def alone(prompt, params):
    return answer_alone(lambda tokens: logits_after(tokens, V), prompt, params, max_length=LENGTH)


def computed(engine: Engine, prompt, params=ONE) -> int:
    """Return how many of a prompt's tokens are computed; its answer is the one that it is alone."""
    model = engine._model
    model.poison([row for rank in engine._scheduler._free for row in rank])
    before = len(model.steps)
    id_ = engine.submit(prompt, params)
    assert together(step_until_idle(engine)) == {(id_, 0): alone(prompt, params)}
    counts = [int(np.sum(positions >= 0)) for _, positions in model.steps[before:]]
    return sum(counts) - max(0, len(engine_tokens(prompt, params)) - 1)


def engine_tokens(prompt, params) -> list[int]:
    return alone(prompt, params).tokens


@every_mode
@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 127, 128, 129, 130, 131, 132, 160, 200])
@pytest.mark.parametrize("chunk", [512, 96, 40])
def test_a_prompt_that_comes_again_starts_at_its_last_block(length, chunk, pads_steps):
    engine, prompt = engine_of(chunk=chunk, pads_steps=pads_steps), stem(length)
    assert computed(engine, prompt) == length
    start = min(length // BLOCK * BLOCK, length - 1)
    assert [computed(engine, prompt) for _ in range(2)] == [length - start] * 2


@every_mode
@pytest.mark.parametrize("parting", [0, 1, 31, 32, 33, 63, 95, 96, 127, 128, 129, 131, 132, 150])
def test_two_branches_part_anywhere(parting, pads_steps):
    engine, length = engine_of(pads_steps=pads_steps), 170
    one = stem(length)
    two = [*one[:parting], (one[parting] + 1) % V, *stem(length - parting - 1, 1)]
    assert computed(engine, one) == length
    assert computed(engine, two) == length - parting // BLOCK * BLOCK
    end = length // BLOCK * BLOCK
    assert [computed(engine, each) for each in (one, two, one)] == [length - end] * 3


@every_mode
@pytest.mark.parametrize("length", [33, 50, 63, 64, 65, 128, 131, 160])
def test_all_but_the_last_token_of_a_prompt_may_be_known(length, pads_steps):
    """A prompt that ends inside of a known block computes one token."""
    engine = engine_of(pads_steps=pads_steps)
    computed(engine, stem(200))
    assert computed(engine, stem(200)[:length]) == 1


@every_mode
def test_an_answer_is_known_as_the_beginning_of_the_next_prompt(pads_steps):
    engine, prompt = engine_of(pads_steps=pads_steps), stem(30)
    params = SamplingParams(max_tokens=70)
    computed(engine, prompt, params)
    following = [*prompt, *engine_tokens(prompt, params), 5, 5]
    assert computed(engine, following) == len(following) - 96


@every_mode
def test_prompt_logprobs_compute_their_prompt(pads_steps):
    engine, prompt = engine_of(pads_steps=pads_steps), stem(80)
    computed(engine, prompt)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    assert computed(engine, prompt, params) == 80
    assert computed(engine, prompt) == 16


@every_mode
def test_sequences_that_run_share_what_is_known_so_far(pads_steps):
    engine = engine_of(pads_steps=pads_steps)
    params = SamplingParams(max_tokens=20)
    first = engine.submit(stem(100), params)
    engine.step()
    second = engine.submit(stem(100), SamplingParams(max_tokens=20, n=2))
    results = engine.run()
    assert results[first].tokens == results[second].tokens == alone(stem(100), params).tokens
    counts = [int(np.sum(positions >= 0)) for _, positions in engine._model.steps[:4]]
    assert counts == ([100, 1, 4, 3] if pads_steps else [100, 1 + 4, 3, 3])


@pytest.mark.parametrize(
    "options",
    [{"prefix_cache": 0}, {"prefix_cache": 0, "pads_steps": True}, {"prefix_cache": "0%"}],
)
def test_without_a_store_everything_is_computed(options):
    engine = engine_of(**options)
    assert [computed(engine, stem(70)) for _ in range(2)] == [70, 70]


@pytest.mark.parametrize("size", ["10", "ten%", "101%", "-1%", "%", "1.5%", -1])
def test_a_size_that_means_nothing_is_refused(size):
    with pytest.raises(ValueError, match="prefix_cache"):
        engine_of(prefix_cache=size)


@every_mode
@pytest.mark.parametrize("blocks", [1, 3, 5, 9])
def test_what_is_kept_is_within_the_budget(blocks, pads_steps):
    budget = blocks * 2 * BLOCK * KEY_BYTES
    engine = engine_of(prefix_cache=budget, pads_steps=pads_steps)
    (store,) = engine._worker.prefixes
    for seed in range(4):
        computed(engine, stem(150, seed))
        computed(engine, stem(100, seed))
        assert store.nbytes <= budget
    kept = sum(
        part.nbytes
        for block in store._used
        for each in (block.full, block.sliding)
        for pair in each
        for part in pair
    )
    assert kept == store.nbytes > 0


def test_a_smaller_budget_drops_what_is_beyond_it():
    engine = engine_of()
    computed(engine, stem(150))
    (store,) = engine._worker.prefixes
    before = store.nbytes
    store.resize(before)
    assert store.nbytes == before
    store.resize(before - 1)
    assert 0 < store.nbytes < before
    store.resize(0)
    assert store.nbytes == 0
    assert computed(engine, stem(150)) == 150


@every_mode
def test_the_least_recently_used_is_dropped_first(pads_steps):
    budget = 9 * 2 * BLOCK * KEY_BYTES  # nine blocks of both layers
    engine = engine_of(prefix_cache=budget, pads_steps=pads_steps)
    for seed in (0, 1, 2):
        assert computed(engine, stem(97, seed)) == 97
    assert computed(engine, stem(97, 0)) == 1
    assert computed(engine, stem(97, 3)) == 97
    assert computed(engine, stem(97, 0)) == 1
    assert computed(engine, stem(97, 2)) == 1
    assert computed(engine, stem(97, 1)) > 1


@pytest.mark.parametrize("block", [4, 8])
@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 9), st.integers(1, 9)),
        min_size=2,
        max_size=9,
    ),
    st.sampled_from([1, 200, 600, 1500, LARGE]),
    st.sampled_from([3, 8, 13, 64]),
    st.sampled_from([5, 12]),
    st.sampled_from([7, 512]),
    st.booleans(),
)
def test_any_prefixes_chunks_budgets_and_windows_change_nothing(
    block, drawn, budget, chunk, window, max_step, pads_steps
):
    with pytest.MonkeyPatch.context() as patch:
        for module in (prefix_store, scheduler):
            patch.setattr(module, "BLOCK", block)
        sizes = {"chunk": chunk, "window": window, "max_step": max_step}
        engine = engine_of(prefix_cache=budget, pads_steps=pads_steps, **sizes)
        expected = {}
        for seed, common, rest, count in drawn:
            prompt = [*stem(common, seed % 2), *stem(rest + 1, seed + 5)]
            params = SamplingParams(max_tokens=count, temperature=1.0, seed=seed)
            expected[engine.submit(prompt, params), 0] = alone(prompt, params)
            engine._model.poison([row for rank in engine._scheduler._free for row in rank])
            events = engine.step()
            expected.setdefault("events", []).extend(events)
        events = [*expected.pop("events"), *step_until_idle(engine)]
        assert together(events) == expected
        assert all(store.nbytes <= budget for store in engine._worker.prefixes)


@every_mode
def test_blocks_of_another_ranks_rows_take_no_memory(pads_steps):
    """Every rank has the tree, and runs the programs; the keys are on one rank."""
    engine = engine_of(pads_steps=pads_steps)
    rank_rows = slice(0, 2), slice(2, 3)
    cache = replace(engine._worker.cache, rank_rows=rank_rows, rank=1)
    store = PrefixStore(cache, LARGE)
    store.save(stem(70), 0, 0, 0)
    blocks = [part for block in store._used for pair in block.full for part in pair]
    assert len(blocks) == 2 * (70 // BLOCK)
    assert all(part.strides[0] == 0 and len(part) == BLOCK for part in blocks)
    assert store.restore(stem(70), 0) == 64
    assert cache.length_B.tolist() == [64, 0, 0]
    assert all((layer.position_Z == -1).all() for layer in cache.layers)
