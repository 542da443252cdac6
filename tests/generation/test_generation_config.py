"""generation_config.json: its sampling parameters become keyword arguments of `generate`."""

import pytest

from mimo_v2_flash.generation.generation_config import load_generation_config
from tests.support.tiny_text import write_json


@pytest.mark.parametrize(
    ("config", "kwargs"),
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
        ({"eos_token_id": [0, 2]}, {"eos_token_id": [0, 2]}),
        ({"eos_token_id": 0}, {"eos_token_id": 0}),
    ],
)
def test_what_is_said_is_asked(tmp_path, config, kwargs):
    write_json(tmp_path / "generation_config.json", config)
    assert load_generation_config(tmp_path) == kwargs


def test_without_the_file_nothing_is_asked(tmp_path):
    assert load_generation_config(tmp_path) == {}


@pytest.mark.parametrize(("content", "message"), [("{", "not JSON"), ("[1]", "a JSON object")])
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ValueError, match=f"generation_config.json: {message}"):
        load_generation_config(tmp_path)
