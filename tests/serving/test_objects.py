"""Answers as objects: openai's types, or the same shape without the package."""

import sys

from mimo_v2_flash.serving import objects

ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def test_answers_are_openais_types():
    from openai.types.chat import ChatCompletion

    answer = objects.as_object(ANSWER)
    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage.total_tokens == 3


def test_without_the_package_they_have_the_same_shape(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai.types.chat", None)
    objects._openai_type.cache_clear()
    answer = objects.as_object(ANSWER)
    objects._openai_type.cache_clear()
    assert answer.choices[0].message.content == "Hello"
    assert answer.usage.total_tokens == 3
