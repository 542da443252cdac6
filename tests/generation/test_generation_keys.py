"""generation_keys: every key of transformers has a rule, and the rules give its tokens.

Oracle: transformers' GenerationConfig and logits processors on the same file.
"""

import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.engine.sampler import Draw, Sampler, process_logits, scale, thresholds
from mimo_v2_flash.generation.generation_config import GenerationConfig, load_generation_config
from mimo_v2_flash.generation.generation_keys import GENERATION_KEYS
from tests.support.tiny_text import write_json

CONFIG = MiMoConfig(vocab_size=40, eos_token_id=None)


def written(folder, content) -> GenerationConfig:
    """Return the defaults of a checkpoint that has this generation_config.json."""
    write_json(folder / "generation_config.json", content)
    return load_generation_config(folder, CONFIG)


@cache
def transformers_classes():
    transformers = pytest.importorskip("transformers")
    return transformers.GenerationConfig, type("Mixin", (transformers.GenerationMixin,), {})


def test_every_key_of_transformers_has_one_rule():
    oracle, _ = transformers_classes()
    names = {name for name in vars(oracle()) if name != "_original_object_hash"}
    rules = [*GENERATION_KEYS.used, *GENERATION_KEYS.supported, *GENERATION_KEYS.without_effect]
    assert names <= {*rules}
    assert len(rules) == len({*rules})


def test_what_transformers_does_by_default_is_allowed(tmp_path):
    defaults = transformers_classes()[0]._get_default_generation_params()
    assert written(tmp_path, defaults) == GenerationConfig()


@pytest.mark.parametrize("key", GENERATION_KEYS.supported)
def test_a_key_that_would_change_the_tokens_is_refused_by_file_and_value(tmp_path, key):
    with pytest.raises(ValueError, match=f"^{tmp_path}/generation_config.json: {key} = 7: allowed"):
        written(tmp_path, {key: 7})


@pytest.mark.parametrize("key", GENERATION_KEYS.without_effect)
def test_a_key_without_effect_passes_in_silence(tmp_path, key):
    assert written(tmp_path, {key: 7}) == GenerationConfig()


OFF = {
    # transformers refuses empty lists, which mean the same as null
    key: st.sampled_from([value for value in values if value not in ([], {})])
    for key, values in GENERATION_KEYS.supported.items()
}
FILES = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.sampled_from([None, False, True]),
        "temperature": st.none() | st.floats(0.3, 3),
        "top_k": st.none() | st.integers(0, 45),
        "top_p": st.none() | st.floats(0, 1) | st.just(0),
        "min_p": st.none() | st.sampled_from([0, 0.02, 0.3, 1]),
        "repetition_penalty": st.none() | st.sampled_from([0.7, 1.0, 1.3]),
        "eos_token_id": st.none() | st.integers(0, 39) | st.lists(st.integers(0, 39), max_size=3),
        "suppress_tokens": st.none() | st.lists(st.integers(0, 38), max_size=5),
    },
)


def survivors_in_transformers(content, logits_V, history) -> dict[int, float]:
    """Return the tokens that transformers would draw, and their probabilities."""
    torch = pytest.importorskip("torch")
    oracle, mixin = transformers_classes()
    defaults = oracle(**content)  # keys of other libraries are without effect in it
    defaults.update(**oracle._get_default_generation_params(), defaults_only=True)
    defaults._eos_token_tensor = None  # no minimal length: nothing reads it
    mixin.config = SimpleNamespace(is_encoder_decoder=False)
    processors = mixin()._get_logits_processor(defaults, input_ids_seq_length=len(history))
    scores = processors(torch.tensor([history]), torch.tensor(np.float64(logits_V))[None])[0]
    if not defaults.do_sample:
        return {int(scores.argmax()): 1.0}
    return {i: p for i, p in enumerate(scores.softmax(dim=-1).tolist()) if p > 0}


@settings(max_examples=150, deadline=None)
@given(
    FILES,
    st.fixed_dictionaries({}, optional=OFF),
    st.permutations(range(40)),
    st.lists(st.integers(0, 39), min_size=2, max_size=9),
)
def test_the_tokens_left_of_a_row_are_those_of_transformers(tmp_path_factory, file, off, row, seen):
    logits_V = np.float32(row) / np.float32(6.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = survivors_in_transformers(file | off, logits_V, seen)
    ours = written(tmp_path_factory.mktemp("file"), file | off)
    draw = Draw(ours, 0, 0, len(seen), seen)
    if not ours.temperature:
        assert Sampler(ours.suppress_tokens)(logits_V[None], [draw]).tolist() == [*expected]
        return
    score_1V = process_logits(logits_V[None], [draw])
    score_1V[:, list(ours.suppress_tokens)] = -np.inf
    scaled_1V = scale(score_1V, [ours])
    token_A = np.flatnonzero(scaled_1V[0] >= thresholds(scaled_1V, [ours]))
    weight_A = np.exp(np.float64(scaled_1V[0, token_A]))
    actual = dict(zip(token_A.tolist(), (weight_A / np.sum(weight_A)).tolist(), strict=True))
    assert actual == pytest.approx(expected, abs=1e-6)
