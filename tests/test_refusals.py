"""Invalid arguments raise an error that names them, before anything is computed or changed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mimo_v2_flash import MiMoConfig, MiMoV2FlashModel, load_weights
from mimo_v2_flash.kv_cache import new_cache
from tests.support.oracle import assert_same_logits
from tests.support.rows import ragged
from tests.support.tiny import random_tokens, running, tiny
from tests.support.watching import WatchingBackend

CACHED = random_tokens(tiny(), 2, 9)
NEXT_B1, AT_B1 = [[1], [2]], [[9], [9]]  # the step that follows


@pytest.fixture
def running_model():
    """Return a model, its backend, and a cache with 9 tokens in 2 rows and space for 3 more."""
    backend = WatchingBackend()
    model = running(tiny(), backend=backend)
    cache = model.new_cache(2, 12)
    model.step(*ragged(CACHED, [0, 0]), cache)
    backend.calls.clear()
    return model, backend, cache


def content(cache) -> list[bytes]:
    arrays = [part for layer in cache.layers for part in layer]
    return [array.tobytes() for array in (*arrays, cache.length_B, cache.oldest_B)]


@pytest.mark.parametrize(
    ("token_BT", "position_BT", "options", "message"),
    [
        ([[1], [61]], AT_B1, {}, r"token id 61 in row 1, column 0 .* vocabulary 0\.\.60"),
        ([[-1], [2]], AT_B1, {}, r"token id -1 in row 0, column 0"),
        ([[0.5], [2]], AT_B1, {}, "token ids must be integers, got float64"),
        ([1, 2], AT_B1, {}, r"token ids must be \[B, T\]"),
        (NEXT_B1, [[9, 10], [9, 10]], {}, r"positions are \(2, 2\), the tokens are \(2, 1\)"),
        (NEXT_B1, [["9"], ["9"]], {}, "positions must be integers"),
        ([[1]], [[9]], {}, r"position_BT is \(1, 1\), the cache holds 2 sequences"),
        ([[1]] * 3, [[9]] * 3, {}, r"position_BT is \(3, 1\), the cache holds 2 sequences"),
        ([[1] * 4] * 2, [range(9, 13)] * 2, {}, r"row 0 reaches position 12, .* room for 12"),
        (NEXT_B1, [[9], [10]], {}, "row 1 starts at position 10, .* holds 9 tokens"),
        (NEXT_B1, [[9], [4]], {}, "row 1 starts at position 4, .* at most 3 tokens"),
        ([[1, 1]] * 2, [[9, 10], [9, 9]], {}, r"row 1, column 1 is 9, expected consecutive"),
        ([[1, 1]] * 2, [[9, 10], [-1, 9]], {}, r"row 1, column 1 is 9, expected consecutive"),
        (NEXT_B1, AT_B1, {"logits_at": [[1], [0]]}, r"logits_at must be in -1\.\.0"),
        (NEXT_B1, AT_B1, {"logits_at": [0, 0]}, r"logits_at must be \[2, n\]"),
    ],
)
def test_a_step_is_refused_before_it_begins(running_model, token_BT, position_BT, options, message):
    model, backend, cache = running_model
    before = content(cache)
    with pytest.raises(ValueError, match=message):
        model.step(token_BT, position_BT, cache, **options)
    assert backend.calls == []
    assert content(cache) == before
    model.step(NEXT_B1, AT_B1, cache)


@pytest.mark.parametrize("start", [0, 7])
def test_a_step_that_fails_halfway_leaves_what_was_before_it(running_model, start):
    model, _, cache = running_model
    *layers, last = tiny().weights.layers
    broken = running(tiny()._replace(weights=tiny().weights._replace(layers=(*layers, nan(last)))))
    again = ragged(CACHED[:, start:], [start, start])
    with pytest.raises(ValueError, match="NaN"):
        broken.step(*again, cache)
    with pytest.raises(ValueError, match=f"starts at position 9, but the cache holds {start}"):
        model.step(NEXT_B1, AT_B1, cache)
    assert_same_logits(model.step(*again, cache), model.forward(CACHED)[:, start:])


def nan(layer):
    return layer._replace(feed_forward_norm_D=layer.feed_forward_norm_D * np.float32(np.nan))


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "there is no prompt"),
        ([[1], []], {}, "prompt 1 must be a sequence of token ids, and not empty"),
        ([[1], [2, 61]], {}, "token id 61 in row 1, column 1"),
        ([[1]], {"max_new_tokens": 8193}, "max_new_tokens after .* must be at most 8192"),
        ([[1]], {"temperature": -1}, "temperature is -1"),
        ([[1]], {"top_p": -0.5}, "top_p is -0.5"),
        ([[1]], {"seed": -1}, "seed is -1"),
        ([[1]], {"cache_dtype": np.float16}, "float32, bfloat16, fp8 or int8, got float16"),
    ],
)
def test_a_request_is_refused_before_it_begins(running_model, prompts, options, message):
    model, backend, _ = running_model
    with pytest.raises(ValueError, match=message):
        model.generate(prompts, **options)
    assert backend.calls == []


def test_a_setting_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="temprature: not a setting; there are temperature"):
        running(tiny()).generate([[1]], temprature=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"expert_subset": [1, 1]}, r"expert_subset names \[1\] more than once"),
        ({"expert_subset": [1, 7]}, r"expert_subset.*\[7\]"),
        ({"expert_subset": [-1]}, r"expert_subset.*\[-1\]"),
        ({"expert_subset": []}, "expert_subset.* no expert"),
        ({"max_step": 0}, "max_step must be at least 1, got 0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        running(tiny(), **options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 9), "batch_size must be at least 1, got 0"),
        ((10**30, 9), f"batch_size must be at most {2**31 - 1}, got {10**30}"),
        ((1, 0), "max_length 0"),
        ((1, 8193), "max_length must be at most 8192, got 8193"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        running(tiny()).new_cache(*sizes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny().oracle.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_routed_experts": 8}, r"experts\.7\.gate_proj\.weight.* missing"),
        ({"add_full_attention_sink_bias": True}, r"layers\.0\..*attention_sink_bias.* missing"),
        ({"n_routed_experts": 6}, r"experts\.6\.gate_proj\.weight.* unexpected"),
        ({"add_swa_attention_sink_bias": False}, r"layers\.1\..*attention_sink_bias.* unexpected"),
        ({"vocab_size": 62}, r"model\.embed_tokens\.weight is \(61, 23\), .* \(62, 23\)"),
        ({"moe_intermediate_size": 14}, r"gate_proj\.weight is \(13, 23\), .* \(14, 23\)"),
    ],
)
def test_weights_that_are_not_the_config_s_are_named(checkpoint, fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load_weights(checkpoint, replace(tiny().config, **fields))
    assert str(checkpoint) in str(refusal.value)


def test_another_kind_of_model_is_named(checkpoint, tmp_path):
    content = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "llama"}))
    with pytest.raises(ValueError, match=r"config\.json: model_type = 'llama'"):
        MiMoConfig.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused_at_once():
    model = tiny()
    config = replace(model.config, vocab_size=model.config.vocab_size + 1)
    with pytest.raises(ValueError, match="embedding"):
        MiMoV2FlashModel(model.weights, config)


def test_a_cache_of_another_model_is_refused_before_it_is_changed():
    model = running(tiny())
    other = replace(model.config, v_head_dim=model.config.v_head_dim + 2)
    cache = new_cache(other.layers, batch_size=1, max_length=4)
    with pytest.raises(ValueError, match="another model"):
        model.step([[1]], [[0]], cache)
    assert not any(kv.k_ZKQ.any() for kv in cache.layers)


def test_fewer_than_no_new_tokens_are_refused():
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0, got -3"):
        running(tiny()).generate([[1]], max_new_tokens=-3)
