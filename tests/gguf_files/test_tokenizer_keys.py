"""Keys of a tokenizer: the tokens of every text are those of the tokenizer.json before."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mimo_v2_flash.gguf_files.tokenizer_keys import (
    keys_of_tokenizer,
    tokenizer_config_of_keys,
    tokenizer_of_keys,
)
from tests.support.shipped import FOLDER as CHECKPOINT

TOKENIZER = json.loads((CHECKPOINT / "tokenizer.json").read_text())
CONFIG = json.loads((CHECKPOINT / "tokenizer_config.json").read_text())
VOCAB_SIZE = 4100  # a few rows more than tokens


def keys(tokenizer=TOKENIZER) -> dict[str, object]:
    return {key.name: key.value for key in keys_of_tokenizer(tokenizer, CONFIG, VOCAB_SIZE)}


BEFORE = Tokenizer.from_str(json.dumps(TOKENIZER))
AFTER = Tokenizer.from_str(json.dumps(tokenizer_of_keys(keys())))


@given(
    text=st.text()
    | st.sampled_from(["<|im_start|>user\nA  b<|im_end|>", "e\u0301 \u00e9\r\n12345"])
)
def test_a_text_has_the_tokens_that_it_had(text):
    for special in (False, True):
        ids = BEFORE.encode(text, add_special_tokens=special).ids
        assert AFTER.encode(text, add_special_tokens=special).ids == ids
        assert AFTER.decode(ids) == BEFORE.decode(ids)


def test_special_tokens_keep_their_roles():
    config = tokenizer_config_of_keys(keys())
    assert config["eos_token"] == config["bos_token"] == CONFIG["eos_token"]


def test_ids_without_a_token_are_no_tokens():
    assert len(keys()["tokenizer.ggml.tokens"]) == VOCAB_SIZE
    assert AFTER.get_vocab_size() == BEFORE.get_vocab_size()


def test_a_file_without_a_tokenizer_has_none():
    assert tokenizer_of_keys({"tokenizer.ggml.model": "none"}) is None
    assert tokenizer_of_keys({}) is None


@pytest.mark.parametrize(("name", "value"), [("model", "llama"), ("pre", "llama-bpe")])
def test_another_tokenizer_is_refused(name, value):
    with pytest.raises(ValueError, match=f"tokenizer.ggml.{name} is '{value}'"):
        tokenizer_of_keys(keys() | {f"tokenizer.ggml.{name}": value})


def test_a_tokenizer_that_splits_otherwise_is_not_written():
    with pytest.raises(ValueError, match="splits text as Qwen2's"):
        keys({**TOKENIZER, "pre_tokenizer": {"type": "Whitespace"}})
