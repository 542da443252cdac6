"""Models whose experts are in a store: the bits of the mapped model, from every kind of file."""

import numpy as np
import pytest

from mimo_v2_flash import load_model
from mimo_v2_flash.engine import Engine, SamplingParams
from mimo_v2_flash.engine.worker import drafting_heads
from mimo_v2_flash.execution import NumpyBackend
from mimo_v2_flash.expert_store import ExpertReadError, ExpertStoreBackend, find_store, store_stats
from mimo_v2_flash.expert_store.eviction_policies import POLICIES, read_policy
from mimo_v2_flash.parallel import ThreadGroup
from tests.support.gguf_models import write_shipped
from tests.support.shipped import FOLDER

TOKENS = [np.random.default_rng(0).integers(3, 500, (1, n)) for n in (3, 150)]
QUANTIZED = {"isq": 8}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return what `load_model` takes for each kind of files."""
    folder = tmp_path_factory.mktemp("sources")
    write_shipped(folder / "tiny.gguf", FOLDER, "bfloat16")
    return {
        "hub": (FOLDER, {}),
        "prepared": (FOLDER, QUANTIZED | {"isq_cache": folder}),
        "gguf": (folder / "tiny.gguf", {}),
        "bfloat16 compute": (FOLDER, {"compute": "bfloat16"}),
        "some experts and layers": (FOLDER, {"expert_subset": [1, 4, 7, 9, 15], "num_layers": 3}),
    }


def logits(model):
    return [model.forward(token_BT) for token_BT in TOKENS]


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        *(("hub", 1), ("hub", 7), ("hub", 1000), ("prepared", 7), ("gguf", 7)),
        *(("bfloat16 compute", 7), ("some experts and layers", 1)),
    ],
)
def test_logits_are_to_the_bit_those_of_the_mapped_model(sources, kind, records):
    path, options = sources[kind]
    expected = logits(load_model(path, **options))
    probe = load_model(path, **options, expert_cache="1GB")
    size = int(find_store(probe).size_LE.max())
    model = load_model(path, **options, expert_cache=records * size)
    for _ in range(2):
        for logits_BTV, expected_BTV in zip(logits(model), expected, strict=True):
            np.testing.assert_array_equal(logits_BTV, expected_BTV)
    stats = store_stats(model)
    assert stats.peak_bytes <= stats.max_bytes == records * size
    assert (stats.evictions > 0) == (records < 1000)


def test_auto_drafts_nothing_for_which_experts_would_be_read():
    assert drafting_heads(load_model(FOLDER, expert_cache="1MB"), "auto") == 0
    assert drafting_heads(load_model(FOLDER), "auto") == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_generated_tokens_are_those_of_the_mapped_model(policy):
    prompts = [[5, 6, 7, 8], [9], [3, 1, 4, 1, 5]]
    options = {"max_new_tokens": 12, "draft_tokens": 2, "seed": 7}
    expected = load_model(FOLDER).generate(prompts, **options)
    stored = load_model(FOLDER, expert_cache="400kB", expert_cache_policy=policy)
    assert stored.generate(prompts, **options) == expected


def test_ranks_have_stores_of_their_own():
    token_BT = np.random.default_rng(1).integers(3, 500, (2, 5))
    expected = load_model(FOLDER).forward(token_BT)

    group = ThreadGroup(2)

    def run(_):
        model = load_model(FOLDER, group=group, expert_cache="200kB")
        logits_BTV = model.forward(token_BT)
        return logits_BTV, find_store(model).size_LE.shape, store_stats(model).misses

    results = group.run(run)
    for logits_BTV, shape, misses in results:
        np.testing.assert_allclose(logits_BTV, expected, atol=1e-4)
        assert shape == (5, 8)
        assert misses


def test_a_read_that_fails_ends_the_requests_of_the_step_and_no_others(monkeypatch):
    """The engine goes on: what waited, and what comes after, has the tokens that it has alone."""
    model = load_model(FOLDER, expert_cache="400kB")
    params, store = SamplingParams(max_tokens=6), find_store(model)
    alone = [
        model.generate([prompt], max_new_tokens=6, temperature=0)[0]
        for prompt in ([5, 6, 7], [8, 9])
    ]
    read, failures = store._reader.read, [ExpertReadError("model_1.safetensors: Stale file")]

    def read_or_fail(records):
        if failures:
            raise failures.pop()
        read(records)

    with Engine(model, 1) as engine:
        first, waiting = engine.submit([5, 6, 7], params), engine.submit([8, 9], params)
        monkeypatch.setattr(store._reader, "read", read_or_fail)
        results = engine.run()
        assert engine.failure is None
        assert results[first].finish_reason == "error"
        assert "model_1.safetensors: Stale file" in str(results[first].answers[0].error)
        assert results[waiting].tokens == alone[1]
        again = engine.submit([5, 6, 7], params)
        assert engine.run()[again].tokens == alone[0]
        assert engine.stats.expert_cache == store.stats


def test_the_engines_memory_leaves_room_for_the_store():
    sizes = []
    for options in ({}, {"expert_cache": "1GB"}):
        with Engine(load_model(FOLDER, **options), 1, max_length=64) as engine:
            sizes.append(engine.stats.max_memory_bytes)
    assert sizes[1] < sizes[0] - 700_000_000


def test_it_computes_as_its_backend():
    class Doubling(NumpyBackend):
        def compile(self, function, *, donate=None):
            return lambda x: 2 * function(x)

    backend = ExpertStoreBackend(Doubling(), 100, read_policy("lru"))
    assert backend.compile(abs)(-3) == 6
    assert backend.to_device((1, 2)) == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_cache": "8 cows"}, "expert_cache is '8 cows', allowed is bytes, a size such as"),
        ({"expert_cache": "1kB"}, "expert_cache is 1,000 bytes, expected room for an expert: "),
        ({"expert_cache": "1GB", "expert_cache_policy": "fifo"}, "expert_cache_policy is 'fifo'"),
        ({"expert_cache_policy": "lru"}, "expert_cache_policy is for an expert_cache"),
        ({"expert_cache": "1GB", "backend": "xla"}, "expert_cache is for backend numpy"),
        ({"expert_cache": "1GB", "isq": 8}, r"layer 1, expert 0 .* not in a file as memory holds"),
    ],
)
def test_what_is_not_allowed_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        load_model(FOLDER, **options)


def test_programs_have_no_store():
    class Static(NumpyBackend):
        execution_mode = "static"

    with pytest.raises(ValueError, match="expert_cache is for backend numpy"):
        ExpertStoreBackend(Static(), 100, read_policy("lru"))
