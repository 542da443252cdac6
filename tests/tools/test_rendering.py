"""Conversations as tokens: MiMo's template, and which tokens the loss counts."""

import json

import numpy as np
import pytest

from mimo_v2_flash.text.chat_output import join_deltas
from mimo_v2_flash.text.chat_template import chat_prompt
from mimo_v2_flash.text.output_parser import OutputParser
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.tools.test_corpus import chats
from tools.train import publish, rendering, shape, tokens

CHATS = [each.as_json() for each in chats()[::4]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [json.dumps(each) for each in CHATS]
    tokens.train(texts, 700).save(str(folder / "tokenizer.json"))
    publish.write_tokenizer(folder / "tokenizer.json", shape.SHAPES["small"], folder)
    return load_tokenizer(folder)


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer):
    plain = tokenizer.tokenize("Bramiond")
    for before in (" ", '"', "\n", "=", " (", "the "):
        assert tokenizer.tokenize(f"{before}Bramiond")[-len(plain) :] == plain
    assert tokenizer.tokenize("437") == ["4", "3", "7"]


@pytest.mark.parametrize("chat", CHATS, ids=lambda chat: chat["kind"])
def test_what_is_learned_is_what_the_model_writes(tokenizer, chat):
    """The answer's prompt and the learned tokens together are the rendered conversation."""
    token_T = rendering.render(tokenizer, chat)
    mask = rendering.learned(tokenizer, token_T)
    prompt = chat_prompt(
        tokenizer,
        chat["messages"][:-1],
        tools=chat["tools"] or None,
        enable_thinking=chat["thinks"],
    )
    assert token_T[: len(prompt.tokens)] == prompt.tokens
    assert not mask[len(prompt.tokens) - 1]
    assert mask[len(prompt.tokens) :].all()
    parser = OutputParser(tokenizer, chat["tools"] or None, is_reasoning=prompt.is_reasoning)
    written = token_T[len(prompt.tokens) :]
    assert tokenizer.decode(written[-1:]) == "<|im_end|>"
    deltas = [delta for token in written for delta in parser.push(token)]
    message, last = join_deltas([*deltas, *parser.end()]), chat["messages"][-1]
    assert message.content == (last["content"] or None)
    assert message.reasoning_content == last.get("reasoning_content")
    if chat["call"]:
        (call,) = message.tool_calls
        assert {"name": call.name, "arguments": json.loads(call.arguments)} == chat["call"]


def test_every_answer_of_a_conversation_counts(tokenizer):
    chat = next(each for each in CHATS if each["kind"] == "result" and not each["thinks"])
    token_T = rendering.render(tokenizer, chat)
    text = tokenizer.decode(np.array(token_T)[rendering.learned(tokenizer, token_T)])
    answers = [each["content"] for each in chat["messages"] if each["role"] == "assistant"]
    assert text.count("<|im_end|>") == len(answers)
    assert all(each in text for each in answers)
    assert chat["messages"][0]["content"] not in text


def test_conversations_are_written_with_their_masks(tokenizer, tmp_path):
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(each) + "\n" for each in CHATS))
    rendered = [rendering.render(tokenizer, each) for each in CHATS]
    longest = int(np.median([len(each) for each in rendered]))
    report = rendering.write(tmp_path / "chats.jsonl", tokenizer, longest, tmp_path / "out.npz")
    kept = [each for each in rendered if len(each) <= longest]
    with np.load(tmp_path / "out.npz") as arrays:
        assert np.split(arrays["token"], arrays["start"][1:])[-1].tolist() == kept[-1]
        assert report["learned"] == arrays["counts"].sum() > 0
    assert report["conversations"] + report["too_long"] == len(CHATS)
    assert report["conversations"] == len(kept) < len(CHATS)
