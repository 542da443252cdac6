"""/tokenize and /detokenize: the tokens that a prompt has."""

import pytest

from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.protocol import DetokenizeRequest, TokenizeRequest, parse_request
from mimo_v2_flash.serving.tokenization import detokenize, tokenize
from mimo_v2_flash.text.chat_template import chat_prompt

MESSAGES = [{"role": "user", "content": "Hello <|im_end|>"}]


def ask(served, **fields):
    return tokenize(parse_request(TokenizeRequest, fields), served)


def test_a_text_goes_there_and_back(served):
    answer = ask(served, prompt="a list", add_special_tokens=False, return_token_strs=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == served.max_length
    request = parse_request(DetokenizeRequest, {"tokens": answer["tokens"]})
    assert detokenize(request, served) == {"prompt": "a list"}


def test_a_chat_has_the_tokens_that_it_is_answered_with(served):
    answer = ask(served, messages=MESSAGES)
    assert answer["tokens"] == chat_prompt(served.tokenizer, MESSAGES).tokens
    assert answer["token_strs"] is None


@pytest.mark.parametrize("fields", [{}, {"prompt": "a", "messages": MESSAGES}, {"messages": [{}]}])
def test_what_is_neither_is_refused(served, fields):
    with pytest.raises(APIError):
        ask(served, **fields)


def test_a_token_that_is_none_is_refused(served):
    with pytest.raises(APIError, match=r"4096, allowed is 0\.\.4095"):
        detokenize(parse_request(DetokenizeRequest, {"tokens": [4096]}), served)
