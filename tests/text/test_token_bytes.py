"""The bytes of tokens: those of all tokens of a text are the text's."""

import hypothesis
from hypothesis import strategies as st

from mimo_v2_flash.text.token_bytes import token_bytes
from mimo_v2_flash.text.tokenizer import tokens


@hypothesis.given(st.text())
def test_bytes_of_tokens_are_those_of_the_text(tokenizer, text):
    hypothesis.assume(not any(name in text for name in tokenizer.added_tokens_encoder))
    try:
        expected = text.encode()
    except UnicodeEncodeError:
        hypothesis.reject()
    token_T = tokens(tokenizer, text)
    assert b"".join(token_bytes(tokenizer, token) for token in token_T) == expected


def test_a_special_token_is_its_name_and_an_unknown_id_nothing(tokenizer):
    assert token_bytes(tokenizer, 2) == b"<|im_end|>"
    assert token_bytes(tokenizer, 5000) == b""
