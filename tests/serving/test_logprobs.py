"""Log-probabilities in OpenAI's shapes: bytes, offsets, and no infinity, which JSON lacks."""

import math

from mimo_v2_flash.engine.outputs import TokenLogprob
from mimo_v2_flash.serving.logprobs import chat_logprobs, completion_logprobs
from mimo_v2_flash.text.tokenizer import tokens


def entries(token_ids, logprob=-0.5):
    return [TokenLogprob(token, logprob, 1, ((token, logprob), (7, -2.0))) for token in token_ids]


def test_a_chats_tokens_have_their_bytes(tokenizer):
    token_ids = tokens(tokenizer, "a 🙂")
    content = chat_logprobs(tokenizer, entries(token_ids))["content"]
    assert bytes(byte for each in content for byte in each["bytes"]).decode() == "a 🙂"
    assert content[0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "<think>", "logprob": -2.0, "bytes": list(b"<think>")},
        ],
    }


def test_a_completions_tokens_have_offsets_into_its_text(tokenizer):
    token_ids = tokens(tokenizer, "a list of names")
    result = completion_logprobs(tokenizer, [0, *entries(token_ids)], 5)
    assert result["token_logprobs"] == [None] + [-0.5] * len(token_ids)
    assert result["top_logprobs"][0] is None
    assert result["text_offset"][:2] == [5, 5]  # a special token is not in the text
    text = "a list of names"
    for offset, token in zip(result["text_offset"][1:], result["tokens"][1:], strict=True):
        assert text[offset - 5 :].startswith(token)


def test_there_is_no_infinity(tokenizer):
    (entry,) = chat_logprobs(tokenizer, entries([9], -math.inf))["content"]
    assert entry["logprob"] == -9999.0
    assert completion_logprobs(tokenizer, entries([9], -math.inf), 0)["token_logprobs"] == [-9999.0]
