"""Grammars: masks allow what the grammar allows, from the right token on, and go back."""

import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mimo_v2_flash.serving.errors import APIError
from mimo_v2_flash.serving.grammar import GrammarCompiler
from mimo_v2_flash.text.tokenizer import tokens

END = 2
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TEXT = json.dumps(SCHEMA)


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(tokenizer, 4100, [0, END])  # four rows that the tokenizer lacks


def constraint(compiler, kind="json_schema", text=TEXT, begins_after=None):
    return compiler.constraint(compiler.compile(kind, text, "response_format"), begins_after)


def accepts(each, token_ids):
    """Return whether a constraint's masks allow tokens, which it takes."""
    for token in token_ids:
        if not each.mask()[token]:
            return False
        each.accept(token)
    return True


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ('{"a": "x"}', True),
        ('{"a": "y", "b": 12}', True),
        ('{"a": "z"}', False),
        ('{"b": 1}', False),
        ("Sure: {", False),
    ],
)
def test_a_schema_allows_its_values_and_no_others(compiler, tokenizer, text, is_allowed):
    each = constraint(compiler)
    assert accepts(each, tokens(tokenizer, text)) == is_allowed
    if is_allowed:
        mask_V = each.mask()
        assert mask_V.shape == (4100,)
        assert mask_V[END]
        assert each.accept(END) == "stop"


@pytest.mark.parametrize(("spaces", "is_allowed"), [(0, True), (20, True), (21, False)])
def test_whitespace_in_json_has_an_end(compiler, tokenizer, spaces, is_allowed):
    text = '{"a":' + " " * spaces + '"x"}'
    assert accepts(constraint(compiler), tokens(tokenizer, text)) == is_allowed


def test_an_end_token_is_not_allowed_before_the_end(compiler, tokenizer):
    each = constraint(compiler)
    accepts(each, tokens(tokenizer, '{"a": "x"'))
    assert not each.mask()[[0, END]].any()
    assert not each.mask()[4096:].any()


@pytest.mark.parametrize(
    ("kind", "grammar", "text"),
    [
        ("regex", "[0-9]{3}", "123"),
        ("choice", '["yes", "no"]', "no"),
        ("grammar", 'root ::= "ab" | "c"', "ab"),
    ],
)
def test_other_kinds_of_grammars(compiler, tokenizer, kind, grammar, text):
    each = constraint(compiler, kind, grammar)
    assert accepts(each, tokens(tokenizer, text))
    assert each.mask()[END]
    assert not accepts(constraint(compiler, kind, grammar), tokens(tokenizer, "?"))


@pytest.mark.parametrize("schema", ['{"if": {}}', '{"type": "nothing"}', "{", "[]"])
def test_a_grammar_that_is_not_understood_is_refused_in_a_line(compiler, schema):
    with pytest.raises(APIError, match="response_format") as caught:
        compiler.compile("json_schema", schema, "response_format")
    assert "\n" not in str(caught.value)


def test_thinking_is_free_until_its_end(compiler, tokenizer):
    think_end = tokenizer.added_tokens_encoder["</think>"]
    each = constraint(compiler, begins_after=think_end)
    for token in tokens(tokenizer, "let me see: a { b"):
        assert each.mask() is None
        each.accept(token)
    each.accept(think_end)
    assert each.mask() is not None
    assert accepts(each, tokens(tokenizer, '{"a": "x"}'))


@hypothesis.given(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=8))
def test_going_back_is_as_if_tokens_had_not_come(compiler, tokenizer, moves):
    think_end = tokenizer.added_tokens_encoder["</think>"]
    text = [*tokens(tokenizer, "so "), think_end, *tokens(tokenizer, '{"a": "x", "b": 17}')]
    each, position = constraint(compiler, begins_after=think_end), 0
    for goes_on, count in moves:
        if goes_on:
            for token in text[position : position + count]:
                each.accept(token)
            position = min(position + count, len(text))
        else:
            each.rollback(min(count, position))
            position -= min(count, position)
        fresh = constraint(compiler, begins_after=think_end)
        for token in text[:position]:
            fresh.accept(token)
        expected, copied = fresh.mask(), each.copy()
        for actual in (each.mask(), copied.mask()):
            assert (actual is None) == (expected is None)
            assert actual is None or np.array_equal(actual, expected)


def test_a_copy_goes_its_own_way(compiler, tokenizer):
    each = constraint(compiler)
    accepts(each, tokens(tokenizer, '{"a'))
    copied, before = each.copy(), each.mask()
    accepts(copied, tokens(tokenizer, '": "x"'))
    assert np.array_equal(each.mask(), before)
