"""stop_strings: text up to the first stop string, wherever tokens end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_v2_flash.text.stop_strings import StopDetokenizer
from mimo_v2_flash.text.tokenizer import tokens
from tests.support.chat_text import shipped_tokenizer
from tests.support.tiny_text import any_text, small_tokenizer

MARKERS = ("<think>", "</think>")


def run(token_T, stop, tokenizer=None, **options) -> tuple[list[str], str | None]:
    text = StopDetokenizer(tokenizer or small_tokenizer(), stop, **options)
    pieces = [*map(text.push, token_T), text.end()]
    return pieces, text.stop_reason


def first_stop(text: str, stop, early: int = 0) -> tuple[str, str | None]:
    """Return the text and the stop string, looked for after each character but some."""
    for end in range(early + 1, len(text) + 1):
        ending = [each for each in stop if text[:end].endswith(each)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


stops = st.lists(
    st.text("the 世🙂\n", min_size=1, max_size=4) | st.text(min_size=1, max_size=2), max_size=3
)


@settings(max_examples=300)
@given(any_text, stops)
def test_the_text_ends_before_the_stop_string_that_ends_first(text, stop):
    pieces, reason = run(tokens(small_tokenizer(), text), stop)
    assert ("".join(pieces), reason) == first_stop(text, stop)


@given(any_text, stops, st.integers(0, 8))
def test_a_stop_string_counts_after_so_many_tokens(text, stop, min_tokens):
    token_T, plain = tokens(small_tokenizer(), text), StopDetokenizer(small_tokenizer())
    early = len("".join(map(plain.push, token_T[:min_tokens])))
    pieces, reason = run(token_T, stop, min_tokens=min_tokens)
    expected = first_stop(text, stop, early if len(token_T) > min_tokens else len(text))
    assert ("".join(pieces), reason) == expected


@pytest.mark.parametrize(
    ("early", "shown", "reason"),
    [
        ("", " is L", "e"),
        (" is Lee, and I", " is Lee, and I'm a stud", "e"),
        (" is Lee, and I'm a student", " is Lee, and I'm a student", None),
    ],
)
def test_min_tokens_are_those_of_vllm(early, shown, reason):
    """VLLM's example: its tests/detokenizer/test_min_tokens.py."""
    parts = early, " is Lee, and I'm a student".removeprefix(early)
    early_T, later_T = (tokens(small_tokenizer(), part) for part in parts)
    pieces, stop_reason = run([*early_T, *later_T], ["e"], min_tokens=len(early_T))
    assert ("".join(pieces), stop_reason) == (shown, reason)


def test_a_stop_string_that_came_too_early_never_counts():
    early_T, later_T = (tokens(small_tokenizer(), part) for part in ("the", " x"))
    pieces, reason = run([*early_T, *later_T], ["the end", "e"], min_tokens=len(early_T))
    assert ("".join(pieces), reason) == ("the x", None)


@given(any_text.filter(bool), st.data())
def test_a_part_of_the_text_stops_it(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : start + data.draw(st.integers(1, 5))]
    pieces, reason = run(tokens(small_tokenizer(), text), [stop])
    assert ("".join(pieces), reason) == (text[: text.index(stop)], stop)


@given(any_text, stops)
def test_no_more_is_held_back_than_may_begin_a_stop_string(text, stop):
    stop_text, emitted = StopDetokenizer(small_tokenizer(), stop), ""
    plain, token_T = StopDetokenizer(small_tokenizer()), tokens(small_tokenizer(), text)
    known = ""
    for token in token_T:
        emitted += stop_text.push(token)
        known += plain.push(token)
        if stop_text.stop_reason is None:
            held = known[len(emitted) :]
            assert known.startswith(emitted)
            assert not held or any(each.startswith(held) for each in stop)


def test_a_stop_string_is_found_as_soon_as_it_is_whole():
    token_T = tokens(small_tokenizer(), "the end, and more")
    text, count = StopDetokenizer(small_tokenizer(), ["end,"]), 0
    while text.stop_reason is None:
        text.push(token_T[count])
        count += 1
    decoded = small_tokenizer().decode(token_T[:count])
    assert "end," in decoded
    assert "end," not in small_tokenizer().decode(token_T[: count - 1])


def test_after_a_stop_string_nothing_is_shown():
    pieces, reason = run(tokens(small_tokenizer(), "a end b end c"), ["end"])
    assert ("".join(pieces), reason) == ("a ", "end")


def test_what_was_held_is_shown_at_the_end():
    pieces, reason = run(tokens(small_tokenizer(), "the en"), ["end"])
    assert ("".join(pieces), pieces[-1], reason) == ("the en", "en", None)


@pytest.mark.parametrize(
    ("text", "stop", "shown", "reason"),
    [
        ("a<|im_end|>b", ["<|im_end|>"], "a", "<|im_end|>"),
        ("a</think>b", ["x", "</think>b"], "a", "</think>b"),
        ("a</think>b", ["ab"], "ab", None),  # a special token is between them
        ("a<|im_end|>b", [], "ab", None),
    ],
)
def test_special_tokens_in_stop_strings_are_tokens(text, stop, shown, reason):
    pieces, stop_reason = run(tokens(shipped_tokenizer(), text), stop, shipped_tokenizer())
    assert ("".join(pieces), stop_reason) == (shown, reason)


def test_markers_are_stand_ins_that_no_text_can_be():
    tokenizer = shipped_tokenizer()
    text = StopDetokenizer(tokenizer, names=MARKERS)
    spelled = [token for part in ("</", "think>") for token in tokens(tokenizer, part)]
    token_T = [*tokens(tokenizer, "<think>a<|im_end|>"), *spelled, *tokens(tokenizer, "</think>")]
    shown = "".join([*map(text.push, token_T), text.end()])
    begin, end = (text.standins[name] for name in MARKERS)
    assert shown == f"{begin}a</think>{end}"
    assert all("\ud800" <= standin <= "\udfff" for standin in text.standins.values())


def test_a_copy_goes_on_by_itself():
    token_T = tokens(small_tokenizer(), "the end 🙂")
    text = StopDetokenizer(small_tokenizer(), ["end"])
    for token in token_T[:2]:
        text.push(token)
    copied = text.copy()
    assert [*map(copied.push, token_T[2:]), copied.end()] == [
        *map(text.push, token_T[2:]),
        text.end(),
    ]
    assert text.stop_reason == "end"
    other = StopDetokenizer(small_tokenizer(), ["end"])
    other.copy().push(token_T[1])
    assert other.push(token_T[0]) + other.end() == "the"
    assert other.stop_reason is None


@pytest.mark.parametrize("stop", ["", 5, None])
def test_an_empty_stop_string_is_refused(stop):
    with pytest.raises(ValueError, match=f"^a stop string is {stop!r}, expected is a text of"):
        StopDetokenizer(small_tokenizer(), ["a", stop])


def test_of_two_stop_strings_in_a_token_the_one_that_ends_first_counts():
    tokenizer = shipped_tokenizer()
    (token,) = tokens(tokenizer, " list")
    assert run([token], ["st", "is"], tokenizer) == ([" l", ""], "is")
