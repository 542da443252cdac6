"""MiMoV2FlashModel: steps, chunks, caches, rollback of drafts, subsets of experts, generation."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.generation.generation_config import GenerationConfig
from mimo_v2_flash.kv_slots import MAX_DRAFT_TOKENS
from mimo_v2_flash.layers.hooks import HookedLayers
from tests.support.agreement import assert_agrees
from tests.support.oracle import assert_same_logits
from tests.support.rows import prefill, ragged
from tests.support.tiny import Recipe, random_tokens, running, tiny
from tests.support.watching import WatchingBackend

MODEL = running(tiny())
RING = tiny().config.sliding_window + MAX_DRAFT_TOKENS
LONG, SHORT = random_tokens(tiny(), 40, seed=1), random_tokens(tiny(), 7, seed=2)
PROMPTS = [LONG.tolist(), SHORT.tolist(), LONG[:1].tolist()]


@pytest.fixture(scope="module", name="expected_TV")
def logits_of_the_long_row() -> np.ndarray:
    """Return the logits of LONG in one prefill; chunks and rollbacks must give the same."""
    return MODEL.forward([LONG])[0]


def stepped(cache, part, start, **options) -> np.ndarray:
    """Return the logits of a step with the tokens `part` of one row, from `start` on."""
    return MODEL.step(*ragged([part], [start]), cache, **options)[0]


def cache_after(tokens):
    cache = MODEL.new_cache(1, len(LONG))
    stepped(cache, tokens, 0)
    return cache


@pytest.mark.parametrize("max_step", [1, 3, 39, 40, 41])
def test_a_longer_step_runs_as_consecutive_chunks(expected_TV, max_step):
    backend = WatchingBackend()
    model = running(tiny(), max_step=max_step, backend=backend)
    assert_same_logits(model.forward([LONG])[0], expected_TV)
    assert max(len(step.position_N) for _, step in backend.calls) == min(max_step, 40)


@given(st.lists(st.tuples(st.integers(0, 39), st.integers(0, 6)), min_size=1, max_size=4))
def test_logits_are_of_the_tokens_asked_for(pairs):
    index_Bn = np.transpose(pairs)
    step = ragged([LONG, SHORT], [0, 0])
    every_BTV = MODEL.step(*step, MODEL.new_cache(2, 40))
    logits_BnV = MODEL.step(*step, MODEL.new_cache(2, 40), logits_at=index_Bn)
    assert_agrees(logits_BnV, np.stack([every_BTV[0, index_Bn[0]], every_BTV[1, index_Bn[1]]]))


def test_logits_are_float32_for_every_token_unless_asked_otherwise():
    logits_BTV = MODEL.forward([SHORT, SHORT])
    assert (logits_BTV.shape, logits_BTV.dtype) == ((2, 7, 61), np.float32)


@settings(max_examples=20)
@given(st.data())
def test_drafts_taken_back_were_never_seen(expected_TV, data):
    """At every step some wrong draft tokens follow, which the next step rolls back."""
    cache, start = MODEL.new_cache(1, len(LONG)), 0
    while start < len(LONG):
        count = data.draw(st.integers(1, len(LONG) - start))
        drafts = data.draw(st.integers(0, min(MAX_DRAFT_TOKENS, len(LONG) - start - count)))
        wrong = random_tokens(tiny(), drafts, seed=start)
        logits_TV = stepped(cache, [*LONG[start : start + count], *wrong], start)
        assert_same_logits(logits_TV[:count], expected_TV[start : start + count])
        start += count


@pytest.mark.parametrize("back", [MAX_DRAFT_TOKENS + 2, 20, 39])
def test_more_than_a_draft_cannot_be_taken_back(expected_TV, back):
    cache, start = cache_after(LONG), len(LONG) - back
    with pytest.raises(ValueError, match=f"row 0 starts at position {start}, .* at most 3 tokens"):
        stepped(cache, LONG[start:], start)
    assert_same_logits(stepped(cache, LONG[-1:], 39), expected_TV[-1:])


@pytest.mark.parametrize("length", [1, RING - 1, RING, 30])
def test_a_row_that_starts_again_is_as_in_a_new_cache(expected_TV, length):
    cache = cache_after(random_tokens(tiny(), length, seed=3))
    logits_TV, *_ = prefill(MODEL, cache, [LONG], [[9, 1, 30]])
    assert_same_logits(logits_TV, expected_TV)


def test_rows_of_padding_change_nothing(expected_TV):
    cache = MODEL.new_cache(2, len(LONG))
    MODEL.step(*ragged([SHORT, LONG[:20]], [0, 0]), cache)
    for _ in range(3):
        MODEL.step(*ragged([SHORT[:0], SHORT[:0]], [0, 0]), cache)
    assert cache.length_B.tolist() == [7, 20]
    _, rest_TV = MODEL.step(*ragged([SHORT[:0], LONG[20:]], [0, 20]), cache)
    assert_same_logits(rest_TV, expected_TV[20:])


def test_two_caches_take_turns_without_seeing_each_other(expected_TV):
    first, second = MODEL.new_cache(1, 40), MODEL.new_cache(1, 55)
    parts = []
    for start in range(0, 40, 5):
        parts.append(stepped(first, LONG[start : start + 5], start))
        stepped(second, SHORT[:5], start)
    assert_same_logits(np.concatenate(parts), expected_TV)


@settings(max_examples=20)
@given(st.data())
def test_a_step_on_a_view_is_that_of_its_sequences_alone(expected_TV, data):
    """Runs of rows go on in turn; whatever their neighbours hold, each row's logits are its own."""
    cache, rows = MODEL.new_cache(4, len(LONG)), [LONG, SHORT, LONG[:20], LONG]
    ends, done = [len(row) for row in rows], [0] * 4
    others = [MODEL.forward([row])[0] for row in rows]
    while done != ends:
        first = data.draw(st.sampled_from([row for row in range(4) if done[row] < ends[row]]))
        last = data.draw(st.integers(first, 3))
        counts = [
            data.draw(st.integers(row == first, max(1, min(9, ends[row] - done[row]))))
            if done[row] < ends[row]
            else 0
            for row in range(first, last + 1)
        ]
        parts = [
            rows[first + index][done[first + index] :][:count] for index, count in enumerate(counts)
        ]
        step = ragged(parts, done[first : last + 1])
        logits_BTV = MODEL.step(*step, cache.view(first, last + 1))
        for index, part in enumerate(parts):
            row, count = first + index, len(part)
            expected = others[row][done[row] : done[row] + count]
            if count:
                assert_same_logits(logits_BTV[index, :count], expected)
            done[row] += count
        assert cache.length_B.tolist() == done


def test_32_sequences_decode_in_one_attention_call_whoever_is_idle():
    calls = []

    def hook(call):
        if call.part == "attend":
            calls.append(call.args[1].position_BS)

    model = running(tiny(), backend=HookedLayers(hook))
    cache = model.new_cache(40, 9)
    is_idle_B = np.arange(40) % 5 == 0
    model.step(np.zeros((40, 1), int), np.where(is_idle_B, -1, 0)[:, None], cache)
    assert [position_BT.shape for position_BT in calls] == [(39, 1)] * len(tiny().config.layers)
    for position_BT in calls:
        np.testing.assert_array_equal(position_BT[:, 0] >= 0, ~is_idle_B[1:])


def test_padding_is_not_computed():
    sizes = set()

    def hook(call):
        if call.part in {"attention", "feed_forward", "layer"}:
            sizes.add(len(call.args[0]))

    model = running(tiny(), backend=HookedLayers(hook), max_step=11)
    model.step(*ragged([SHORT, SHORT[:0], SHORT[:1], LONG[:9]], [0] * 4), model.new_cache(4, 40))
    assert sizes == {11, 6}


def test_a_bfloat16_cache_stays_close():
    # Every expert is chosen: rounding would send some tokens to another one.
    model = running(tiny(Recipe(experts=3, experts_per_token=3)))
    cache = model.new_cache(1, 40, ml_dtypes.bfloat16)
    assert {part.dtype.name for layer in cache.layers for part in layer} == {"bfloat16", "int32"}
    logits_TV, *_ = prefill(model, cache, [LONG], [[5] * 8])
    expected_TV = model.forward([LONG])[0]
    distance = np.max(np.abs(logits_TV - expected_TV)) / np.ptp(expected_TV)
    assert 1e-5 < distance < 0.02


def test_the_order_of_a_subset_says_nothing():
    first, second = (running(tiny(), expert_subset=ids) for ids in ([5, 1, 3], [1, 3, 5]))
    np.testing.assert_array_equal(first.forward([SHORT]), second.forward([SHORT]))


def test_all_experts_are_the_whole_model():
    np.testing.assert_array_equal(
        running(tiny(), expert_subset=range(7)).forward([SHORT]), MODEL.forward([SHORT])
    )


def test_a_token_chooses_at_most_as_many_experts_as_there_are():
    model = running(tiny(), expert_subset=[4])
    assert (model.config.n_routed_experts, model.config.num_experts_per_tok) == (1, 1)
    assert np.isfinite(model.forward([SHORT])).all()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_row_is_answered_as_if_it_were_alone(temperature):
    options = {"temperature": temperature, "max_new_tokens": 20, "seed": 7}
    completions = MODEL.generate(PROMPTS, **options)
    for row, prompt in enumerate(PROMPTS):
        # The index of a row selects its random stream: one-token prompts before it keep the index.
        alone = MODEL.generate([[0]] * row + [prompt], **options)
        assert completions[row] == alone[row]
        assert len(completions[row]) == 20


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_equal_requests_have_equal_answers(temperature):
    options = {"temperature": temperature, "max_new_tokens": 20}
    first, _, second = (MODEL.generate(PROMPTS, seed=seed, **options) for seed in (1, 2, 1))
    assert first == second


def test_another_seed_gives_other_tokens():
    options = {"temperature": 1.5, "max_new_tokens": 20}
    assert MODEL.generate([SHORT], seed=1, **options) != MODEL.generate([SHORT], seed=2, **options)


def test_without_a_seed_each_call_has_a_fresh_one_that_its_result_names():
    options = {"temperature": 1.5, "max_new_tokens": 20}
    first, second = (MODEL.generate(PROMPTS, **options) for _ in range(2))
    assert first != second
    assert MODEL.generate(PROMPTS, seed=first.seed, **options) == first
    assert MODEL.generate(PROMPTS, seed=5, **options).seed == 5


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "top_k": 2}])
def test_suppressed_tokens_are_not_generated_and_the_rest_is_as_from_masked_logits(options):
    """Greedily and by sampling, whose filters see what is left; the cache is as without them."""
    (free,) = MODEL.generate([SHORT], max_new_tokens=12, eos_token_id=[])
    defaults = GenerationConfig(suppress_tokens=(*sorted({*free}),))
    same = {"max_new_tokens": 12, "eos_token_id": [], "seed": 3}
    (new,) = MODEL.generate([SHORT], generation_config=defaults, **same, **options)
    assert not {*new} & {*free}
    logits_TV = MODEL.forward([[*SHORT, *new]])[0, len(SHORT) - 1 : -1].copy()
    logits_TV[:, list(defaults.suppress_tokens)] = -np.inf
    best_T2 = np.argsort(-logits_TV, axis=1)[:, :2]
    assert all(
        token in best[: options.get("top_k", 1)] for token, best in zip(new, best_T2, strict=True)
    )


def test_settings_and_end_tokens_that_mean_nothing_are_refused_by_name():
    for option, message in (
        ({"heat": 1}, "heat: not a setting; there are temperature, top_k"),
        ({"do_sample": True}, "do_sample: not a setting"),
        ({"top_p": 2}, "top_p is 2, allowed is"),
        ({"eos_token_id": 10**6}, "eos_token_id is 1000000, allowed is token ids of 0 to"),
        (
            {"generation_config": GenerationConfig(suppress_tokens=(-1,))},
            r"suppress_tokens is \(-1,\), allowed is token ids",
        ),
        ({"eos_token_id": [True]}, r"eos_token_id is \[True\], allowed is token ids"),
        ({"max_new_tokens": 10**6}, "max_new_tokens after a prompt of 7 tokens must be at most"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            MODEL.generate([SHORT], **option)
    endless = running(tiny()._replace(config=replace(tiny().config, eos_token_id=10**6)))
    with pytest.raises(ValueError, match=r"^eos_token_id is \(1000000,\), allowed is token ids"):
        endless.generate([SHORT])
    with pytest.raises(ValueError, match="tokens of a prompt must be at most"):
        MODEL.generate([[1] * (MODEL.max_length + 1)])


def test_nothing_that_the_cache_holds_is_computed_again():
    backend, streamed = WatchingBackend(), []

    def on_token(row: int, token: int) -> None:
        streamed.append((row, token, sum(backend.tokens(3))))

    model = running(tiny(), backend=backend)
    completions = model.generate(PROMPTS, max_new_tokens=9, on_token=on_token)
    layers = len(tiny().config.layers)
    assert backend.tokens(3) == [layers * (len(prompt) + 9 - 1) for prompt in PROMPTS]
    prompts = sum(map(len, PROMPTS))
    assert streamed == [
        (row, completions[row][index], layers * (prompts + 3 * index))
        for index in range(9)
        for row in range(3)
    ]


def test_an_end_token_ends_its_row():
    (free,) = MODEL.generate([SHORT], max_new_tokens=20)
    end = free[4]
    stopped = free[: free.index(end) + 1]
    config = replace(tiny().config, eos_token_id=(end, 60))
    ends_by_itself = running(tiny()._replace(config=config))
    assert MODEL.generate([SHORT], max_new_tokens=20, eos_token_id=end) == [stopped]
    assert MODEL.generate([SHORT], max_new_tokens=20, eos_token_id=[end, 60]) == [stopped]
    assert ends_by_itself.generate([SHORT], max_new_tokens=20) == [stopped]
    assert ends_by_itself.generate([SHORT], max_new_tokens=20, eos_token_id=[]) == [free]


def test_no_tokens_are_no_work():
    backend = WatchingBackend()
    model = running(tiny(), backend=backend)
    assert model.generate(PROMPTS, max_new_tokens=0) == [[], [], []]
    assert backend.calls == []
