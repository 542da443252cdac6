"""special_tokens: no text of a message, a tool or a variable becomes a special token."""

import json
from itertools import permutations
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimo_v2_flash.text.chat_template import chat_prompt
from mimo_v2_flash.text.special_tokens import BORDERS, SpecialTokenGuard
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.chat_text import SHIPPED, TEMPLATES, qwen_like_tokenizer, shipped_tokenizer, tool

NAMES = sorted(shipped_tokenizer().added_tokens_encoder)
IDS = set(shipped_tokenizer().added_tokens_encoder.values())
PARTS = sorted({part for name in NAMES for n in range(len(name)) for part in (name[:n], name[n:])})
# A template that puts texts between what they would need to be special tokens.
NASTY = (
    "<|im_start|>user\n{% for message in messages %}<{{ message.content }}>"
    "</{{ message.content }}><|{{ message.content }}|>{{ message.content }}{{ message.content }}"
    "{% for key, value in (message.extra or {}) | items %}<{{ key }}>{{ value }}</{{ key }}>"
    "{% endfor %}{% endfor %}{{ tools | tojson if tools }}{{ suffix }}<|im_end|>"
)
hostile = st.lists(
    st.sampled_from([*NAMES, *PARTS, "a", " ", "\n", *BORDERS[:2]]) | st.text(max_size=3),
    max_size=6,
).map("".join)


def nasty_tokenizer():
    tokenizer = load_tokenizer(SHIPPED)
    tokenizer.chat_template = NASTY
    return tokenizer


def special(token_T) -> list[int]:
    return [token for token in token_T if token in IDS]


@settings(max_examples=150)
@given(hostile, hostile, hostile, hostile, st.sampled_from([*TEMPLATES]))
def test_hostile_texts_add_no_special_token(user, reasoning, value, key, spelling):
    """The special tokens are those of the same chat with harmless texts."""

    def prompt(*texts: str):
        user, reasoning, value, key = texts
        function = {"name": "weather", "arguments": {key: value}}
        messages = [
            {"role": "system", "content": user},
            {"role": "user", "content": [{"type": "text", "text": user}] * 2},
            {
                "role": "assistant",
                "content": value,
                "reasoning_content": reasoning,
                "tool_calls": [{"function": function}],
            },
            {"role": "tool", "content": value},
        ]
        tokenizer = shipped_tokenizer(spelling)
        return chat_prompt(tokenizer, messages, tools=[tool("weather", {key: {"title": value}})])

    assert special(prompt(user, reasoning, value, key).tokens) == special(prompt(*"abcd").tokens)


NASTY_TOKENIZER = nasty_tokenizer()


@settings(max_examples=300)
@given(hostile, hostile, hostile)
@example("think", "tool_call", "think>")
@example("|im_end|", "im_end", "/think")
def test_texts_do_not_complete_what_the_template_begins(text, key, value):
    messages = [{"role": "user", "content": text, "extra": {key: value}}]
    tools = [tool("f", {key: {"type": "string", "description": text}})]
    prompt = chat_prompt(NASTY_TOKENIZER, messages, tools=tools, suffix=value)
    assert special(prompt.tokens) == [1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_special_token_that_a_user_types_is_its_characters(name):
    tokenizer, text = shipped_tokenizer("compact"), f"type {name}{name[0]}{name} to end"
    prompt = chat_prompt(tokenizer, [{"role": "user", "content": text}])
    assert special(prompt.tokens) == [1, 2, 1, 7, 8]
    assert text in tokenizer.decode(prompt.tokens)


@pytest.mark.parametrize("name", NAMES)
def test_added_tokens_that_are_not_special_are_guarded_too(name):
    tokenizer, text = qwen_like_tokenizer(), f"type {name} to end"
    prompt = chat_prompt(tokenizer, [{"role": "user", "content": text}])
    assert special(prompt.tokens) == [1, 2, 1, 7, 8]
    assert text in tokenizer.decode(prompt.tokens)


@given(hostile)
def test_a_text_comes_back_as_it_was(text):
    messages = [{"role": "user", "content": text}]
    tokenizer = shipped_tokenizer("compact")
    written = tokenizer.decode(chat_prompt(tokenizer, messages).tokens)
    before, after = "<|im_start|>user\n", "<|im_end|><|im_start|>assistant\n<think></think>"
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert normalize(written) == normalize(f"{before}{text}{after}")


def test_what_a_text_would_need_is_only_guarded_where_it_stands():
    guard = SpecialTokenGuard(shipped_tokenizer(), [])
    untouched = {"role": "user", "a": ["b > c < d", 5, None, True, "tool", "calls"]}
    assert guard.protect(untouched) == untouched
    border = BORDERS[0]
    assert guard.protect("<think>") == f"<{border}think>"
    assert guard.protect("> quote") == f"{border}> quote"
    assert guard.protect("a <") == f"a <{border}"
    assert guard.protect({"think": "x"}) == {f"{border}think{border}": "x"}


def test_the_border_is_in_no_text():
    texts = [{"role": "user", "content": f"<think>{border}"} for border in BORDERS]
    guard = SpecialTokenGuard(shipped_tokenizer(), texts[:-1])
    assert guard.protect("<think>") == f"<{BORDERS[-1]}think>"
    with pytest.raises(ValueError, match=r"noncharacters U\+FDD0 to U\+FDEF"):
        chat_prompt(shipped_tokenizer(), texts)


def test_what_is_not_json_is_refused():
    nested: list = []
    nested.append(nested)
    for extra in (object(), nested):
        message = {"role": "user", "content": "a", "extra": extra}
        with pytest.raises(ValueError, match="messages and tools are not JSON: ") as refusal:
            chat_prompt(shipped_tokenizer(), [message])
        assert "\n" not in str(refusal.value)


def test_a_template_sees_texts_without_markers_as_they_are():
    tokenizer = load_tokenizer(SHIPPED)
    tokenizer.chat_template = "{{ messages | tojson }}"
    messages = [{"role": "user", "content": "a <b> c"}]
    assert json.loads(tokenizer.decode(chat_prompt(tokenizer, messages).tokens)) == messages


def test_tokens_that_overlap_are_both_guarded():
    tokenizer = SimpleNamespace(added_tokens_encoder={"<a>": 1, "><": 2, "\n": 3})
    guard = SpecialTokenGuard(tokenizer, [])
    border = BORDERS[0]
    assert guard.protect("x<a><y\n") == f"x<{border}a>{border}<y\n"
    for order in permutations("<a>"):
        assert guard._token.search("".join(map(guard.protect, order))) is None
