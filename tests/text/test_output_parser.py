"""output_parser: transcripts of answers, whole, by the character and by the token."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.engine.outputs import TokenLogprob
from mimo_v2_flash.text.chat_messages import normalize_messages
from mimo_v2_flash.text.chat_output import (
    ChatMessage,
    DeltaMessage,
    DeltaToolCall,
    ToolCall,
    join_deltas,
)
from mimo_v2_flash.text.chat_template import chat_prompt
from mimo_v2_flash.text.output_parser import MARKERS, OutputParser
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.chat_text import (
    TEMPLATES,
    TOOLS,
    deltas_of,
    parse,
    parse_tokens,
    qwen_like_tokenizer,
    shipped_tokenizer,
    splits,
    tool,
)
from tests.support.chat_transcripts import (
    NOW,
    TRANSCRIPTS,
    WEATHER,
    canonical,
    message_of,
    value,
)
from tests.support.drawn_calls import calls

every_transcript = pytest.mark.parametrize("name", TRANSCRIPTS)


@every_transcript
def test_a_transcript_is_its_parts(name):
    text, is_reasoning, *_ = TRANSCRIPTS[name]
    message = parse([text], is_reasoning=is_reasoning)
    assert canonical(message) == message_of(TRANSCRIPTS[name])
    assert message == parse(text, is_reasoning=is_reasoning)


@every_transcript
def test_a_transcript_in_two_pieces_is_the_whole(name):
    text, is_reasoning, *_ = TRANSCRIPTS[name]
    whole = parse([text], is_reasoning=is_reasoning)
    for cut in range(len(text) + 1):
        assert parse([text[:cut], text[cut:]], is_reasoning=is_reasoning) == whole


@every_transcript
def test_a_transcript_of_tokens_is_the_same(name):
    text, is_reasoning, *_ = TRANSCRIPTS[name]
    token_T = [*tokens(shipped_tokenizer(), text), *tokens(shipped_tokenizer(), "<|im_end|>")]
    message = parse_tokens(token_T, is_reasoning=is_reasoning)
    assert canonical(message) == message_of(TRANSCRIPTS[name])


@every_transcript
def test_markers_need_not_be_special_tokens(name):
    text, is_reasoning, *_ = TRANSCRIPTS[name]
    tokenizer = qwen_like_tokenizer()
    token_T = tokens(tokenizer, f"{text}<|im_end|>")
    message = parse_tokens(token_T, tokenizer=tokenizer, is_reasoning=is_reasoning)
    assert canonical(message) == message_of(TRANSCRIPTS[name])


@every_transcript
def test_an_answer_that_is_cut_anywhere_is_whole_json_and_has_no_finished_call(name):
    text, is_reasoning, *_ = TRANSCRIPTS[name]
    whole = parse([text], is_reasoning=is_reasoning)
    for end in range(len(text)):
        message = parse(text[:end], is_reasoning=is_reasoning)
        assert message == parse([text[:end]], is_reasoning=is_reasoning)
        for call in message.tool_calls:
            json.loads(call.arguments)
        assert message.finish_reason("length") == "length"
        complete = [call.is_complete for call in message.tool_calls]
        assert sum(complete) <= len(whole.tool_calls)
        assert all(complete[:-1])
        expected = "tool_calls" if complete and all(complete) else "stop"
        assert message.finish_reason("stop") == expected


PIECES = st.lists(
    st.sampled_from(
        [
            *MARKERS,
            *("<function=weather>", "<function=now>", "<function=go>", "</function>"),
            *("<parameter=city>", "<parameter=days>", "<parameter=x>", "</parameter>"),
            *("\n", " ", "5", "WORD", "WORD", "<", "</", ">", "<function=", "世🙂", "null"),
            *(WEATHER, NOW, "<tool_call><function=weather><parameter=city>"),
        ]
    ),
    max_size=14,
)


@st.composite
def answers(draw) -> str:
    """Return an answer, well-formed or not, each of whose words is another one."""
    pieces = draw(PIECES)
    return "".join(f"w{i};" if piece == "WORD" else piece for i, piece in enumerate(pieces))


@settings(max_examples=200)
@given(answers(), st.booleans(), st.sampled_from([TOOLS, [], None]), st.data())
def test_any_answer_in_any_pieces_is_the_whole(text, is_reasoning, tools, data):
    whole = parse([text], tools, is_reasoning=is_reasoning)
    parts = data.draw(splits(text))
    assert parse(parts, tools, is_reasoning=is_reasoning) == whole
    assert parse(text, tools, is_reasoning=is_reasoning) == whole


@settings(max_examples=200)
@given(answers(), st.booleans())
def test_no_word_of_an_answer_is_lost(text, is_reasoning):
    """Values are strings here: of a number that is cut, nothing is kept."""
    tools = [tool("weather", {"city": {"type": "string"}}), tool("now")]
    message = parse(text, tools, is_reasoning=is_reasoning)
    parts = [message.content, message.reasoning_content]
    parts += [part for call in message.tool_calls for part in (call.name, call.arguments)]
    every = "".join(part or "" for part in parts)
    for word in re.findall(r"w\d+;", text):
        assert word in every


@given(answers(), st.booleans())
def test_without_tools_all_is_text(text, is_reasoning):
    message = parse(text, None, is_reasoning=is_reasoning)
    assert message.tool_calls == ()
    both = (message.reasoning_content or "") + (message.content or "")
    markers = re.compile("</?think>|\\s")
    assert markers.sub("", both) == markers.sub("", text)


@given(answers(), st.booleans())
def test_arguments_are_json_and_only_the_last_call_may_be_cut(text, is_reasoning):
    message = parse(text, is_reasoning=is_reasoning)
    for call in message.tool_calls:
        assert isinstance(json.loads(call.arguments), dict)
    assert all(call.is_complete for call in message.tool_calls[:-1])


def test_a_delta_has_one_part_and_a_call_begins_with_its_name():
    deltas = deltas_of(f"r</think>c{WEATHER}", is_reasoning=True)
    kinds = [
        (
            delta.content is not None,
            delta.reasoning_content is not None,
            delta.tool_call is not None,
        )
        for delta in deltas
    ]
    assert all(sum(kind) == 1 for kind in kinds)
    first, *rest = [delta.tool_call for delta in deltas if delta.tool_call is not None]
    assert first == DeltaToolCall(0, "0", "weather")
    assert {(part.id, part.name) for part in rest} == {(None, None)}
    assert [part.is_complete for part in rest] == [False] * (len(rest) - 1) + [True]


def test_a_string_comes_as_it_is_written():
    parser = iter(deltas_of(value("Be\nrn")))
    arguments = [delta.tool_call.arguments for delta in parser]
    assert arguments == ["", '{"city": "', "B", "e", "\\n", "r", "n", '"', "}"]


def test_text_is_held_back_only_where_it_may_be_a_marker():
    (*deltas,) = deltas_of(["a <", "b <too", "ls"])
    assert deltas == [DeltaMessage(part) for part in ("a ", "<b ", "<tools")]


def test_what_spells_a_marker_is_text_where_the_tokenizer_has_the_marker():
    spelled = [token for part in ("<", "/think", "> a <", "tool_call>") for token in plain(part)]
    message = parse_tokens([*spelled, *tokens(shipped_tokenizer(), f"</think>{NOW}")], **THINKING)
    assert message.reasoning_content == "</think> a <tool_call>"
    assert message.tool_calls == (ToolCall("0", "now", "{}", is_complete=True),)


def plain(text: str) -> list[int]:
    return tokens(shipped_tokenizer(), text)


THINKING = {"is_reasoning": True}


@pytest.mark.parametrize("text", ["世🙂", "a🙂"])
def test_the_last_token_counts_though_it_ends_within_a_character(text):
    token_T = tokens(shipped_tokenizer(), text)
    assert parse_tokens(token_T).content == text
    assert parse_tokens(token_T[:-1]).content == f"{text[:-1]}\ufffd"


def test_a_character_that_a_marker_cuts_ends_there():
    first, *_ = tokens(shipped_tokenizer(), "🙂")
    message = parse_tokens([first, *tokens(shipped_tokenizer(), "</think>c")], **THINKING)
    assert (message.reasoning_content, message.content) == ("\ufffd", "c")


def test_a_stop_string_ends_an_answer_and_is_not_shown():
    tokenizer = shipped_tokenizer()
    parser = OutputParser(tokenizer, stop=["END", "</think>"])
    deltas = [delta for token in tokens(tokenizer, "a text ENDED") for delta in parser.push(token)]
    assert "".join(delta.content for delta in [*deltas, *parser.end()]) == "a text "
    assert parser.stop_reason == "END"


def test_ids_of_calls_are_new():
    first, second = (
        next(delta.tool_call.id for delta in deltas_of_shipped() if delta.tool_call)
        for _ in range(2)
    )
    assert first.startswith("call_")
    assert first != second


def deltas_of_shipped() -> list[DeltaMessage]:
    parser = OutputParser(shipped_tokenizer(), TOOLS)
    return [d for token in tokens(shipped_tokenizer(), NOW) for d in parser.push(token)]


def reply(content: str, reasoning: str, called) -> dict:
    """Return a message of the assistant with calls."""
    tool_calls = [
        {"function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in called
    ]
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": reasoning,
        "tool_calls": tool_calls,
    }


def check_round_trip(message: ChatMessage, content: str, reasoning: str, called) -> None:
    assert (message.content or "") == (content if content.strip() or not called else "")
    assert (message.reasoning_content or "") == reasoning
    assert [(c.name, json.loads(c.arguments)) for c in message.tool_calls] == called
    assert all(call.is_complete for call in message.tool_calls)


WORDS = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=9)


@settings(max_examples=100)
@given(calls(), WORDS, WORDS, st.sampled_from([*TEMPLATES]), st.data())
def test_what_the_template_writes_is_read_back(drawn, content, reasoning, spelling, data):
    tools, called = drawn
    messages = normalize_messages([reply(content, reasoning, called)])
    rendered = shipped_tokenizer(spelling).apply_chat_template(messages, tokenize=False)
    text = rendered.removeprefix("<|im_start|>assistant\n<think>").removesuffix("<|im_end|>")
    message = parse(data.draw(splits(text)), tools, is_reasoning=True)
    check_round_trip(message, content, reasoning, called)


def ascii_text(**options):
    return st.text(st.characters(min_codepoint=32, max_codepoint=126), **options)


@settings(max_examples=50)
@given(
    calls(ascii_text, st.sampled_from("abcz_-. ")),
    ascii_text(max_size=9),
    ascii_text(max_size=9).filter(lambda text: "<" not in text),
    st.sampled_from([*TEMPLATES]),
)
def test_what_the_template_writes_is_read_back_from_tokens(drawn, content, reasoning, spelling):
    """Marker tokens are the template's alone, whatever a value spells."""
    (tools, called), tokenizer = drawn, shipped_tokenizer(spelling)
    prompt = chat_prompt(
        tokenizer, [reply(content, reasoning, called)], tools=tools, add_generation_prompt=False
    )
    think = tokenizer.added_tokens_encoder["<think>"]
    token_T = prompt.tokens[prompt.tokens.index(think) + 1 :]
    check_round_trip(parse_tokens(token_T, tools, is_reasoning=True), content, reasoning, called)


CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>Rome</parameter>\n"
    "</function>\n</tool_call>"
)


@pytest.mark.parametrize(
    "text",
    [
        "It rains 🙂 in Rome.",
        "<think>Rain?</think>It rains.",
        "<think>Rain?</think>Wait.</think> It rains.",
        f"Wait.{CALL}It rains.",
        f"<think>Rain?{CALL}</think>\n\n{CALL} It rains.",
        "What is a <tool_call> with <function=?",
        "It rains <function=get",
        "\n\n",
        CALL,
    ],
)
def test_content_has_the_log_probabilities_of_its_tokens(text):
    tokenizer = shipped_tokenizer()
    parser = OutputParser(tokenizer, TOOLS)
    deltas = []
    for token in tokens(tokenizer, text):
        deltas += parser.push(token, TokenLogprob(token, -1.0, 1, ()))
    deltas += parser.end()
    assert not any(delta.logprobs for delta in deltas if delta.content is None)
    token_ids = [each.token for delta in deltas for each in delta.logprobs]
    assert tokenizer.decode(token_ids) == (join_deltas(deltas).content or "")
