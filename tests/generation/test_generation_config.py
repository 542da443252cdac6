"""generation_config.json: its sampling parameters and end tokens are the defaults of `generate`."""

import pytest

from mimo_v2_flash import MiMoConfig
from mimo_v2_flash.generation.generation_config import (
    SAMPLING,
    GenerationConfig,
    load_generation_config,
)
from mimo_v2_flash.generation.sampling import SamplingParams
from tests.support.tiny_text import write_json

CONFIG = MiMoConfig(eos_token_id=(7, 5))


@pytest.mark.parametrize(
    ("content", "defaults"),
    [
        ({}, {}),
        ({"temperature": 0.8, "top_p": 0.95}, {"temperature": 0.8, "top_p": 0.95}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.3}, {"temperature": 0.3}),
        (
            {"do_sample": False, "temperature": 0.3, "top_k": 5},
            {"temperature": 0.0, "top_k": 5},
        ),
        (
            {"min_p": 0.1, "repetition_penalty": 1.1, "top_k": None, "pad_token_id": 0},
            {"min_p": 0.1, "repetition_penalty": 1.1},
        ),
        ({"eos_token_id": [2, 0, 2]}, {"eos_token_ids": (0, 2)}),
        ({"eos_token_id": 0}, {"eos_token_ids": (0,)}),
        ({"eos_token_id": []}, {"eos_token_ids": ()}),
    ],
)
def test_what_the_file_says_is_the_default(tmp_path, content, defaults):
    write_json(tmp_path / "generation_config.json", content)
    loaded = load_generation_config(tmp_path, CONFIG)
    assert loaded == GenerationConfig(**{"eos_token_ids": (5, 7)} | defaults)


def test_without_the_file_decoding_is_greedy_and_ends_as_the_config_says(tmp_path):
    assert load_generation_config(tmp_path, CONFIG) == GenerationConfig(eos_token_ids=(5, 7))
    without = MiMoConfig(eos_token_id=None)
    assert load_generation_config(tmp_path, without) == GenerationConfig()


def test_its_sampling_parameters_are_all_that_there_are():
    assert {*SAMPLING} == {*SamplingParams.__slots__}
    assert isinstance(GenerationConfig(top_k=3), SamplingParams)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON object"),
        ('{"top_p": 2}', "top_p is 2, allowed is a number in"),
        ('{"eos_token_id": "a"}', "'str' object cannot be interpreted as an integer"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=f"generation_config.json: {message}"):
        load_generation_config(tmp_path, CONFIG)
