"""A model's compute type: the answer of rounded activations, however its tokens form steps.

The oracle is transformers in float32 with rounded inputs. Sums in another order differ by 1e-7,
which may round a number to its other neighbour, and from there on change a token's logits by as
much as rounding does; so of many tokens most are compared, and none may be far.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

from mimo_v2_flash import MiMoV2FlashModel, load_model
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.generate import take_events
from mimo_v2_flash.kernels import ops
from mimo_v2_flash.layers import eager_attention, eager_experts, eager_kernels
from mimo_v2_flash.parallel import ThreadGroup
from mimo_v2_flash.parallel_config import ParallelConfig
from mimo_v2_flash.quantization import matmul as stored
from tests.support.rounding_oracle import nearest_bfloat16, rounded_logits
from tests.support.rows import prefill
from tests.support.shipped import FOLDER
from tests.support.tiny import Recipe, Tiny, random_tokens, running, tiny

LENGTH, EXACT, MOST = 24, 1e-5, 0.5


class Text(NamedTuple):
    """A drawn model and text, with transformers' logits of rounded activations, and the exact."""

    model: Tiny
    token_T: np.ndarray
    expected_TV: np.ndarray
    exact_TV: np.ndarray


@pytest.fixture(scope="module")
def texts() -> list[Text]:
    drawn = []
    for seed in range(8):
        model = tiny(Recipe(seed=seed, experts=8, dense_width=28))
        token_T = random_tokens(model, LENGTH, seed=seed)
        exact_TV = running(model).forward([token_T])[0]
        drawn.append(Text(model, token_T, rounded_logits(model, token_T), exact_TV))
    return drawn


def rounding(text: Text, **options) -> MiMoV2FlashModel:
    return running(text.model, compute="bfloat16", **options)


def assert_most_agree(texts: list[Text], logits_BTV: list[np.ndarray]) -> None:
    """Assert that most tokens' logits are the oracle's, and all closer to it than to others'."""
    errors = []
    for text, logits_TV in zip(texts, logits_BTV, strict=True):
        size = float(np.ptp(text.expected_TV))
        errors.append(np.abs(logits_TV - text.expected_TV).max(axis=-1) / size)
        assert np.median(np.abs(text.exact_TV - text.expected_TV).max(axis=-1)) > 10 * EXACT * size
    assert np.mean(np.concatenate(errors) <= EXACT) >= MOST
    assert np.mean(np.concatenate(errors)) < 0.02


CHUNKS = ([24], [1] * 24, [8, 9, 7], [10, 14], [1, 23])


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_it_is_transformers_with_rounded_inputs_in_any_steps(texts, chunks):
    logits_BTV = []
    for text in texts:
        ours = rounding(text)
        logits_BTV += prefill(ours, ours.new_cache(1, LENGTH), [text.token_T], [chunks])
    assert_most_agree(texts, logits_BTV)


def test_it_is_so_without_numba(texts, monkeypatch):
    for module in (stored, eager_experts, eager_kernels):
        monkeypatch.setattr(module, "compiled_module", lambda _: None)
    logits_BTV = [rounding(text).forward([text.token_T])[0] for text in texts]
    assert_most_agree(texts, logits_BTV)


@pytest.mark.parametrize("rows", [8, 10])
def test_neighbours_change_nothing(texts, rows):
    logits_BTV = []
    for text in texts:
        ours = rounding(text)
        others = [random_tokens(text.model, LENGTH, seed=99 + row) for row in range(rows - 1)]
        cache, chunks = ours.new_cache(rows, LENGTH), [[5] + [1] * 19] * rows
        logits_BTV += prefill(ours, cache, [text.token_T, *others], chunks)[:1]
    assert_most_agree(texts, logits_BTV)


@pytest.mark.parametrize("plan", [ParallelConfig(2, 1, 2), ParallelConfig(2, 2)], ids=str)
def test_ranks_are_one(texts, plan):
    logits_BTV = []
    for text in texts:
        group = ThreadGroup(2)

        def on_rank(_, text=text, group=group) -> np.ndarray:
            ours = rounding(text, group=group, plan=plan)
            return ours.forward(np.stack([text.token_T] * 2))[0]

        logits_BTV.append(group.run(on_rank)[0])
    assert_most_agree(texts, logits_BTV)


def test_ranks_must_agree_on_it(texts):
    group = ThreadGroup(2)

    def on_rank(rank: int) -> None:
        compute = ("float32", "bfloat16")[rank]
        running(texts[0].model, compute=compute, group=group, plan=ParallelConfig(2, 1, 2))

    with pytest.raises(ValueError, match="compute"):
        group.run(on_rank)


def test_a_known_prefix_changes_no_probability():
    model, logprobs = load_model(FOLDER, compute="bfloat16"), []
    prompt = list(range(3, 73))  # two blocks of the prefix store, and a rest
    with Engine(model, 1, 96, prefill_chunk=32, prefix_cache=1 << 24) as engine:
        for _ in range(2):
            tokens: list[Any] = []
            engine.submit(prompt, SamplingParams(max_tokens=8, temperature=0, logprobs=0))
            take_events(engine, 0, lambda event, tokens=tokens: tokens.extend(event.logprobs))
            logprobs.append([(token.token, token.logprob) for token in tokens])
        assert engine.stats.reused_tokens == 64
    assert logprobs[0] == logprobs[1]
    assert len(logprobs[0]) == 8


def test_every_weight_but_the_routers_has_rounded_inputs(monkeypatch):
    """MTP heads too: mimo-tiny generates with drafts, and NumPy alone multiplies."""
    for module in (stored, eager_experts, eager_kernels):
        monkeypatch.setattr(module, "compiled_module", lambda _: None)
    model, is_rounded = load_model(FOLDER, compute="bfloat16"), {}
    router = model.config.n_routed_experts, model.config.hidden_size
    product = stored.plain_matmul

    def spy(x, w):
        if len(w.shape) == 2:
            kind = "router" if w.shape == router else "weight"
            is_rounded.setdefault(kind, []).append(np.array_equal(x, nearest_bfloat16(x)))
        return product(x, w)

    monkeypatch.setattr(stored, "plain_matmul", spy)
    model.generate([[5, 6, 7, 8]], max_new_tokens=3, draft_tokens=2, eos_token_id=[])
    assert all(is_rounded["weight"])
    assert not any(is_rounded["router"])
    assert len(is_rounded["weight"]) > 100


def test_what_is_no_weight_is_not_rounded(monkeypatch):
    """Scores and values of attention are products of activations alone."""
    model, exact = load_model(FOLDER, compute="bfloat16"), []
    product = ops.matmul

    def spy(x, w):
        if x.ndim > 2:
            exact.append(not np.array_equal(x, nearest_bfloat16(np.ascontiguousarray(x))))
        return product(x, w)

    monkeypatch.setattr(ops, "matmul", spy)
    monkeypatch.setattr(eager_attention, "compiled_module", lambda _: None)
    model.forward([list(range(3, 43))])
    assert exact
    assert all(exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compute": "int8"}, "compute is 'int8', allowed is float32 or bfloat16"),
        ({"compute": None}, "compute is None, allowed is float32 or bfloat16"),
        (
            {"compute": "bfloat16", "backend": "xla"},
            "compute is 'bfloat16', allowed with a backend that compiles is float32",
        ),
        ({"cache_dtype": "int4"}, "cache_dtype must be float32, bfloat16, fp8 or int8, got int4"),
        (
            {"cache_dtype": "fp8", "backend": "xla"},
            "cache_dtype must be float32 or bfloat16 with a backend that compiles, got fp8",
        ),
    ],
)
def test_a_type_that_is_not_there_is_refused_before_anything_is_loaded(options, message):
    with pytest.raises(ValueError, match=message):
        load_model("/nowhere", **options)
