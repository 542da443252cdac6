"""generation_config: how tokens are drawn and what ends a text, as transformers reads the files."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.engine.sampling_params import SamplingParams
from mimo_v2_flash.generation.generation_config import (
    SAMPLING,
    GenerationConfig,
    load_generation_config,
)
from mimo_v2_flash.generation.tokenizer_vocab import TokenizerVocab
from tests.support.tiny_text import write_json

CONFIG = MiMoConfig(vocab_size=40, eos_token_id=(7, 5))


def written(folder, content) -> GenerationConfig:
    """Return the defaults of a checkpoint that has this generation_config.json."""
    write_json(folder / "generation_config.json", content)
    return load_generation_config(folder, CONFIG)


@pytest.mark.parametrize(
    ("content", "defaults"),
    [
        ({}, {}),
        ({"temperature": 0.8, "top_p": 0.95}, {"top_p": 0.95}),
        ({"do_sample": None, "temperature": 0.8}, {}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": None, "top_k": None}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.3}, {"temperature": 0.3}),
        ({"do_sample": False, "temperature": 0.3, "top_k": 5}, {"top_k": 5}),
        ({"top_k": 0, "min_p": 0.1, "repetition_penalty": 1.1}, {"top_k": 0, "min_p": 0.1}),
        ({"eos_token_id": [2, 0, 2]}, {"eos_token_ids": (0, 2, 5, 7)}),
        ({"eos_token_id": 0}, {"eos_token_ids": (0, 5, 7)}),
        ({"eos_token_id": []}, {}),
        ({"suppress_tokens": [39, 3]}, {"suppress_tokens": (3, 39)}),
    ],
)
def test_what_the_file_says_is_the_default(tmp_path, content, defaults):
    penalty = {"repetition_penalty": content.get("repetition_penalty", 1.0)}
    greedy = {"temperature": 0.0, "top_k": 50, "eos_token_ids": (5, 7)}
    assert written(tmp_path, content) == GenerationConfig(**greedy | penalty | defaults)


def test_without_the_file_decoding_is_greedy_and_ends_as_the_config_says(tmp_path):
    greedy = GenerationConfig(eos_token_ids=(5, 7))
    assert load_generation_config(tmp_path, CONFIG) == GenerationConfig.of_config(CONFIG) == greedy
    without = replace(CONFIG, eos_token_id=None)
    assert load_generation_config(tmp_path, without) == GenerationConfig()


def test_a_call_may_have_other_sampling_parameters_and_no_others(tmp_path):
    assert {*SAMPLING} < {*SamplingParams.__slots__}
    defaults = GenerationConfig(top_p=0.5, eos_token_ids=(3,), suppress_tokens=(4,))
    assert defaults.with_sampling({"top_k": 3}) == replace(defaults, top_k=3)
    for unknown in ("heat", "do_sample", "eos_token_ids", "suppress_tokens"):
        with pytest.raises(
            ValueError, match=f"^x, {unknown}: not a setting; there are temperature"
        ):
            defaults.with_sampling({"x": 1, "top_k": 3, unknown: True})


# The tokenizer's files beside those of the model.


def write_tokenizer(folder, tokens, eos=None) -> None:
    write_json(folder / "tokenizer.json", {"model": {"vocab": tokens}, "added_tokens": []})
    write_json(folder / "tokenizer_config.json", {"eos_token": eos})


def test_the_end_tokens_of_all_files_end_a_text(tmp_path):
    write_tokenizer(tmp_path, {f"<{index}>": index for index in range(40)}, eos="<9>")
    assert written(tmp_path, {"eos_token_id": 2}).eos_token_ids == (2, 5, 7, 9)
    assert written(tmp_path, {}).eos_token_ids == (5, 7, 9)
    write_tokenizer(tmp_path, {f"<{index}>": index for index in range(40)})
    assert written(tmp_path, {"eos_token_id": [7, 1]}).eos_token_ids == (1, 5, 7)


@pytest.mark.parametrize("name", ["v2.5", "v2.5-pro", "v2.6-flash"])
def test_the_end_tokens_of_published_models_are_three(tmp_path, name):
    """V2.5-Pro's config.json has none, V2.5's has <|im_end|>; generation_config.json is the same.

    Source: generation_config.json of MiMo-V2.5 and V2.6-Flash-RL, whose checksums are equal.
    """
    content = {
        "bos_token_id": 151643,
        "do_sample": False,
        "eos_token_id": [151643, 151645, 151672],
        "temperature": 1.0,
        "top_p": 0.95,
        "transformers_version": "4.57.1",
    }
    write_json(tmp_path / "generation_config.json", content)
    defaults = load_generation_config(tmp_path, MiMoConfig.from_preset(name))
    assert defaults.eos_token_ids == (151643, 151645, 151672)
    assert (defaults.temperature, defaults.top_p) == (0.0, 0.95)


def test_ids_that_the_tokenizer_lacks_are_never_drawn(tmp_path):
    write_tokenizer(tmp_path, {"a": 0, "b": 1, "c": 3})
    assert written(tmp_path, {}).suppress_tokens == (2, *range(4, 40))
    assert written(tmp_path, {"suppress_tokens": [1]}).suppress_tokens == (1, 2, *range(4, 40))
    write_tokenizer(tmp_path, {str(index): index for index in range(99)})
    assert written(tmp_path, {"suppress_tokens": [1]}).suppress_tokens == (1,)


@given(st.sets(st.integers(0, 50)), st.none() | st.integers(0, 39), st.sets(st.integers(0, 39)))
def test_with_a_tokenizer_ends_and_lacking_ids_are_united(token_ids, end, earlier):
    defaults = GenerationConfig(eos_token_ids=(3,), suppress_tokens=tuple(sorted(earlier)))
    with_it = defaults.with_tokenizer(TokenizerVocab(frozenset(token_ids), end, "x"), 40)
    assert {*with_it.eos_token_ids} == {3, end} - {None}
    assert {*with_it.suppress_tokens} == {
        i for i in range(40) if i not in token_ids or i in earlier
    }
    assert [*with_it.suppress_tokens] == sorted({*with_it.suppress_tokens})


def test_an_end_token_past_the_vocabulary_is_refused_by_file_and_value(tmp_path):
    write_tokenizer(tmp_path, {"a": 0, "<end>": 40}, eos="<end>")
    with pytest.raises(ValueError, match=r"tokenizer_config.json: id of eos_token is 40, allowed"):
        load_generation_config(tmp_path, CONFIG)
    wrong = replace(CONFIG, eos_token_id=(7, 40))
    with pytest.raises(ValueError, match=r"/config.json: eos_token_id is \(7, 40\), allowed is"):
        load_generation_config(tmp_path, wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 10**5, "not JSON"),
        ("[1]", "a JSON object is needed"),
        ("\xff", "not JSON"),
        ('{"top_p": 2}', "top_p is 2, allowed is a number in"),
        ('{"do_sample": false, "temperature": "hot"}', "temperature is 'hot', allowed is"),
        ('{"temperature": NaN}', "temperature is nan, allowed is"),
        ('{"top_k": true}', "top_k is True, allowed is an integer"),
        ('{"top_k": 1.5}', "top_k is 1.5, allowed is an integer"),
        ('{"do_sample": "false"}', "do_sample = 'false': allowed is true or false"),
        ('{"do_sample": 1}', "do_sample = 1: allowed is true or false"),
        ('{"num_beams": 4}', "num_beams = 4: allowed is None or 1"),
        ('{"bad_words_ids": [[1]]}', r"bad_words_ids = \[\[1\]\]: allowed is"),
        *[
            (f'{{"eos_token_id": {ids}}}', "eos_token_id is .*, allowed is token ids of 0 to 39")
            for ids in (
                '"2"',
                "2.0",
                "true",
                "-1",
                "40",
                "[[0]]",
                "[0, null]",
                '{"a": 1}',
                "[0, -1]",
            )
        ],
        ('{"suppress_tokens": [99]}', r"suppress_tokens is \[99\], allowed is token ids"),
    ],
)
def test_what_is_not_allowed_is_refused_by_file_and_key(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{tmp_path}/generation_config.json: {message}"):
        load_generation_config(tmp_path, CONFIG)


def test_unknown_keys_are_named_in_one_warning(tmp_path):
    with pytest.warns(UserWarning, match="generation_config.json: .* heat, colour$") as caught:
        written(tmp_path, {"heat": 1, "top_k": 3, "colour": 2, "pad_token_id": 0})
    assert len(caught) == 1
    assert caught[0].filename == __file__
