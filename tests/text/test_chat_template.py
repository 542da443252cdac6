"""chat_template: prompts of a chat, what they leave open, and templates that fail."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.text.chat_template import chat_prompt, prompt_tokens
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
from tests.support.chat_text import TEMPLATES, TOOLS, parse_tokens, shipped_tokenizer
from tests.support.tiny_text import (
    MESSAGE_END,
    SPECIAL,
    TEMPLATE,
    any_text,
    small_tokenizer,
    write_json,
)

MESSAGES = [{"role": "user", "content": "is it 世?"}]
WEATHER = {"name": "weather", "arguments": '{"city": "Bern", "days": 3}'}
CALL = {"id": "1", "type": "function", "function": WEATHER}
every_spelling = pytest.mark.parametrize("spelling", TEMPLATES)


def text_of(messages, spelling=None, **options) -> str:
    tokenizer = shipped_tokenizer(spelling)
    return tokenizer.decode(chat_prompt(tokenizer, messages, **options).tokens)


def test_the_shipped_template_writes_a_chat():
    assert text_of([{"role": "user", "content": "Hello"}]) == (
        "<|im_start|>system\nYou are MiMo, a helpful AI assistant engineered by Xiaomi.<|im_end|>"
        "<|im_start|>user\nHello<|im_end|><|im_start|>assistant\n<think></think>"
    )


@given(st.lists(any_text, min_size=1, max_size=3), st.sampled_from([None, *TEMPLATES]))
def test_tokens_of_texts_without_markers_are_those_of_transformers(texts, spelling):
    tokenizer, roles = shipped_tokenizer(spelling), ("user", "assistant", "user")
    pairs = zip(roles, texts, strict=False)
    messages = [{"role": role, "content": text} for role, text in pairs]
    options = {"tools": TOOLS, "add_generation_prompt": True}
    expected = tokenizer.apply_chat_template(messages, return_dict=False, **options)
    assert chat_prompt(tokenizer, messages, **options).tokens == list(expected)


@every_spelling
def test_calls_are_written_with_their_arguments_as_objects(spelling):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ]
    newline = "\n" if spelling == "newlines" else ""
    call = newline.join(
        [
            "<tool_call>",
            "<function=weather>",
            "<parameter=city>Bern</parameter>",
            "<parameter=days>3</parameter>",
            "</function>",
            "</tool_call>",
        ]
    )
    assert text_of(messages, spelling) == (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\na\nb<|im_end|>"
        f"<|im_start|>assistant\n<think>r</think>{call}<|im_end|>"
        "<|im_start|>tool\nsunny<|im_end|><|im_start|>assistant\n<think></think>"
    )


def test_tools_are_written():
    text = text_of(MESSAGES, "compact", tools=TOOLS)
    first, *_ = text.removeprefix("<|im_start|>system\n").splitlines()
    assert json.loads(first) == TOOLS[0]


# Options, the last message, the end of the prompt, and whether thinking is open there.
OPEN_ENDS = [
    ({}, None, "assistant\n<think></think>", False),
    ({"enable_thinking": False}, None, "assistant\n<think></think>", False),
    ({"enable_thinking": True}, None, "assistant\n", True),
    ({"add_generation_prompt": False}, None, "is it 世?<|im_end|>", True),
    (
        {"continue_final_message": True},
        {"content": "It is "},
        "<think></think>It is ",
        False,
    ),
    (
        {"continue_final_message": True},
        {"content": "It", "reasoning_content": "r"},
        "<think>r</think>It",
        False,
    ),
    ({"continue_final_message": True}, {"reasoning_content": "r s"}, "<think>r s", True),
]


@pytest.mark.parametrize(("options", "last", "end", "is_reasoning"), OPEN_ENDS)
def test_a_prompt_says_whether_the_answer_begins_with_thinking(options, last, end, is_reasoning):
    history = {"role": "assistant", "content": "c", "reasoning_content": "<think>r</think>"}
    messages = [*MESSAGES, history, *MESSAGES]
    messages += [{"role": "assistant", **last}] if last else []
    prompt = chat_prompt(shipped_tokenizer(), messages, **options)
    assert shipped_tokenizer().decode(prompt.tokens).endswith(end)
    assert prompt.is_reasoning == is_reasoning


def test_markers_of_the_systems_text_do_not_close_thinking():
    messages = [{"role": "system", "content": "No calls in <think></think>."}, *MESSAGES]
    prompt = chat_prompt(shipped_tokenizer(), messages, enable_thinking=True)
    assert prompt.is_reasoning
    template = shipped_tokenizer().chat_template
    tokenizer = load_tokenizer(shipped_tokenizer().name_or_path)
    tokenizer.chat_template = f"<|im_start|>system\nNo <think></think>.<|im_end|>{template}"
    assert chat_prompt(tokenizer, messages, enable_thinking=True).is_reasoning


def test_a_template_without_thinking_begins_with_text():
    assert not chat_prompt(load_small(TEMPLATE), MESSAGES).is_reasoning


def load_small(template: str):
    tokenizer = load_tokenizer(shipped_tokenizer().name_or_path)
    tokenizer.chat_template = template
    return tokenizer


@every_spelling
def test_an_answer_that_is_sent_back_has_the_tokens_that_were_generated(spelling):
    """So the cache holds all of the next prompt but its last turn."""
    thinking = {"enable_thinking": True, "tools": TOOLS}
    prompt = chat_prompt(shipped_tokenizer(spelling), MESSAGES, **thinking)
    call = "<tool_call><function=now></function></tool_call>"
    call = call.replace("><", ">\n<") if spelling == "newlines" else call
    text = f"<think>\nso\n</think>\n\nI call.\n\n{call}{call}"
    answer = tokens(shipped_tokenizer(), f"{text}<|im_end|>")
    message = parse_tokens(answer, is_reasoning=prompt.is_reasoning)
    calls = [{"function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls]
    assert len(calls) == 2
    reply = {
        "role": "assistant",
        "content": message.content,
        "reasoning_content": message.reasoning_content,
        "tool_calls": calls,
    }
    history = [*MESSAGES, reply, {"role": "tool", "content": "12:00"}]
    following = chat_prompt(shipped_tokenizer(spelling), history, **thinking).tokens
    known = [*prompt.tokens, *answer]
    assert following[: len(known)] == known


def test_an_empty_chat_is_refused_and_a_prompt_is_either():
    with pytest.raises(ValueError, match="messages is \\[\\], expected is a list of messages"):
        chat_prompt(shipped_tokenizer(), [])
    assert prompt_tokens(shipped_tokenizer(), MESSAGES) == (
        chat_prompt(shipped_tokenizer(), MESSAGES).tokens
    )


def test_a_lone_surrogate_is_refused():
    with pytest.raises(ValueError, match="is a lone surrogate"):
        chat_prompt(shipped_tokenizer(), [{"role": "user", "content": "<think>\udcff"}])


def test_messages_are_put_into_the_chat_template(folder):
    written = f"<|im_start|>user\nis it 世?{MESSAGE_END}<|im_start|>assistant\n"
    token_T = prompt_tokens(load_tokenizer(folder), MESSAGES)
    assert token_T == tokens(small_tokenizer(), written)
    assert token_T.count(SPECIAL.index(MESSAGE_END)) == 1


def test_messages_without_a_template_are_refused():
    with pytest.raises(ValueError, match="no chat template"):
        prompt_tokens(small_tokenizer(), MESSAGES)


BROKEN_TEMPLATES = {
    "{% for x in %}": "TemplateSyntaxError: ",
    "{{ raise_exception('no system') }}": "TemplateError: no system",
    "{{ messages[0].a.b }}": "UndefinedError: ",
    "{{ messages[0] + 1 }}": "TypeError: ",
    "{{ 1 / 0 }}": "ZeroDivisionError: ",
    "{{ ''.__class__.mro() }}": "SecurityError: ",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError: ",
}


@pytest.mark.parametrize(("template", "message"), BROKEN_TEMPLATES.items())
def test_a_template_that_fails_is_one_line_that_names_its_file(folder, tmp_path, template, message):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match="the chat template fails") as refusal:
        prompt_tokens(load_tokenizer(copy), MESSAGES)
    beginning = f"{copy}/chat_template.jinja: the chat template fails: {message}"
    assert str(refusal.value).startswith(beginning)
    assert "\n" not in str(refusal.value)


def test_a_template_in_the_config_that_fails_is_named_too(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "chat_template.jinja").unlink()
    config = json.loads((copy / "tokenizer_config.json").read_text())
    write_json(copy / "tokenizer_config.json", config | {"chat_template": "{{ 1 / 0 }}"})
    with pytest.raises(ValueError, match=r"copy/tokenizer_config\.json: the chat template fails"):
        prompt_tokens(load_tokenizer(copy), MESSAGES)
