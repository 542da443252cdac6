"""tokenizer: round trips of any Unicode, whole characters only, and errors that name the cause."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mimo_v2_flash.text.chat_template import prompt_tokens
from mimo_v2_flash.text.tokenizer import (
    Detokenizer,
    end_of_text,
    load_tokenizer,
    plain_tokens,
    tokens,
)
from tests.support.tiny_text import (
    MESSAGE_END,
    SPECIAL,
    any_text,
    small_tokenizer,
)

ids = st.integers(0, len(small_tokenizer()) - 1)


def pieces_of(token_T) -> list[str]:
    detokenizer = Detokenizer(small_tokenizer())
    return [*map(detokenizer.push, token_T), detokenizer.end()]


def decoded(token_T) -> str:
    return small_tokenizer().decode(token_T, skip_special_tokens=True)


def test_the_tests_tokenizer_splits_characters():
    assert len(tokens(small_tokenizer(), "ø")) == 2
    assert len(tokens(small_tokenizer(), "🚀")) >= 3


@given(any_text)
def test_text_comes_back_piece_by_piece(text):
    token_T = tokens(small_tokenizer(), text)
    assert "".join(pieces_of(token_T)) == decoded(token_T) == text


@given(any_text.filter(lambda text: "\ufffd" not in text))
def test_no_piece_holds_half_a_character(text):
    assert not any("\ufffd" in piece for piece in pieces_of(tokens(small_tokenizer(), text)))


@given(st.lists(ids, max_size=40))
def test_any_tokens_give_what_all_at_once_give(token_T):
    assert "".join(pieces_of(token_T)) == decoded(token_T)


def token_of_byte(byte: int) -> int:
    """Return the token of one byte: those of 256 bytes are in every byte-level vocabulary."""
    return small_tokenizer().get_vocab()[bytes_to_unicode()[byte]]


# Bytes that begin, continue and cannot be in a character, and tokens without text.
broken = st.sampled_from([0x41, 0xC3, 0xE4, 0xEF, 0xBF, 0xBD, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0xED])
silent = st.sampled_from([*range(len(SPECIAL)), len(small_tokenizer()) + 5])


@settings(max_examples=1000)
@given(st.lists(broken.map(token_of_byte) | silent, max_size=40))
def test_broken_bytes_give_what_all_at_once_give_and_at_once(token_T):
    """Each piece leaves out at most the character that may still change."""
    detokenizer, emitted = Detokenizer(small_tokenizer()), ""
    for index, token in enumerate(token_T, 1):
        emitted += detokenizer.push(token)
        certain = decoded(token_T[:index])
        assert emitted == (certain[:-1] if certain.endswith("\ufffd") else certain)
    assert emitted + detokenizer.end() == decoded(token_T)


@pytest.mark.parametrize("unit", [[0x80], [0x80, 0xE4, 0xB8], [0xF0, 0x9F], [0xEF, 0xBF, 0xBD]])
def test_the_work_of_a_token_does_not_grow_with_broken_bytes_before_it(unit):
    lengths = []

    class Counting:
        def decode(self, token_T, **options):
            lengths.append(len(token_T))
            return small_tokenizer().decode(token_T, **options)

    counting = SimpleNamespace(backend_tokenizer=Counting())
    detokenizer, token_T = Detokenizer(counting), [*map(token_of_byte, unit)] * 300
    pieces = [*map(detokenizer.push, token_T), detokenizer.end()]
    assert "".join(pieces) == decoded(token_T)
    assert max(lengths) <= 5
    assert len(lengths) <= 8 * len(token_T)


@given(any_text.filter(bool), st.data())
def test_a_text_that_ends_within_a_character_ends_with_the_mark_for_it(text, data):
    token_T = tokens(small_tokenizer(), text)
    token_T = token_T[: data.draw(st.integers(0, len(token_T)))]
    pieces = pieces_of(token_T)
    assert "".join(pieces) == decoded(token_T)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces[:-1])
        assert pieces[-1] in ("", "\ufffd")


@given(any_text)
def test_what_is_whole_is_given_at_once(text):
    detokenizer, emitted, token_T = Detokenizer(small_tokenizer()), "", []
    for token in tokens(small_tokenizer(), text):
        token_T.append(token)
        emitted += detokenizer.push(token)
        certain = decoded(token_T)
        assert emitted == (certain[:-1] if certain.endswith("\ufffd") else certain)


def test_a_mended_character_is_given_whole():
    token_T = tokens(small_tokenizer(), "🚀")
    assert pieces_of(token_T) == [*[""] * (len(token_T) - 1), "🚀", ""]


def test_special_tokens_are_not_text():
    names = small_tokenizer().added_tokens_encoder
    assert pieces_of([names[MESSAGE_END], *tokens(small_tokenizer(), "end")])[0] == ""
    assert "".join(pieces_of(names.values())) == ""


def test_after_its_end_a_detokenizer_begins_anew():
    detokenizer = Detokenizer(small_tokenizer())
    detokenizer.push(tokens(small_tokenizer(), "🚀")[0])
    assert detokenizer.end() == "\ufffd"
    assert detokenizer.end() == ""
    assert "".join([*map(detokenizer.push, tokens(small_tokenizer(), "a"))]) == "a"


def test_the_files_give_the_same_tokenizer(folder):
    loaded = load_tokenizer(folder)
    assert loaded.get_vocab() == small_tokenizer().get_vocab()
    assert prompt_tokens(loaded, "the naïve 世界") == tokens(small_tokenizer(), "the naïve 世界")


@given(any_text)
def test_plain_tokens_are_those_of_a_text_without_special_tokens(text):
    assert plain_tokens(small_tokenizer(), text) == tokens(small_tokenizer(), text)


@pytest.mark.parametrize("name", SPECIAL)
def test_a_special_token_in_plain_text_is_its_characters(name):
    token_T = plain_tokens(small_tokenizer(), f"a{name}b")
    assert small_tokenizer().added_tokens_encoder[name] not in token_T
    assert decoded(token_T) == f"a{name}b"


def test_a_copied_detokenizer_goes_on_by_itself():
    first, *rest = tokens(small_tokenizer(), "🚀")
    detokenizer = Detokenizer(small_tokenizer())
    detokenizer.push(first)
    copied = detokenizer.copy()
    assert "".join(map(copied.push, rest)) == "🚀"
    assert detokenizer.end() == "\ufffd"


def test_an_empty_prompt_is_the_end_of_text():
    assert prompt_tokens(small_tokenizer(), "") == [end_of_text(small_tokenizer())] == [0]


DAMAGES = [
    ("tokenizer.json", b"{"),
    ("tokenizer.json", b"\xff\xfe\x00"),
    ("tokenizer.json", b""),
    ("tokenizer.json", b"[1]"),
    ("tokenizer.json", b"{}"),
    ("tokenizer.json", b'{"model": {"vocab": {"<|endoftext|>": 0}}, "added_tokens": []}'),
    ("tokenizer_config.json", b"{"),
    ("tokenizer_config.json", b"[1]"),
    ("tokenizer_config.json", b'{"eos_token": 5}'),
    ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
    ("tokenizer_config.json", b'{"added_tokens_decoder": {"0": 1}}'),
    ("chat_template.jinja", b"\xff\xfe"),
]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_a_damaged_file_is_one_line_that_names_it(folder, tmp_path, name, content):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as refusal:
        load_tokenizer(copy)
    assert str(refusal.value).startswith(str(copy))
    assert "\n" not in str(refusal.value)


def test_half_a_surrogate_is_refused_by_its_place():
    with pytest.raises(ValueError, match="character 2 of the text is a lone surrogate"):
        prompt_tokens(small_tokenizer(), "ab\udcff")


def test_a_text_longer_than_the_context_is_no_warning(caplog, folder):
    loaded = load_tokenizer(folder)
    loaded.model_max_length = 3
    assert len(tokens(loaded, "the end, and another end")) > 3
    assert caplog.records == []


def test_a_tokenizer_without_end_of_text_is_refused():
    class Other:
        name_or_path, added_tokens_encoder = "elsewhere", {"<s>": 1}

    with pytest.raises(ValueError, match=r"elsewhere: the tokenizer has no <\|endoftext\|>"):
        end_of_text(Other())


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no tokenizer found, expected"):
        load_tokenizer(tmp_path)


def test_without_transformers_the_command_that_installs_it_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "mimo-v2-flash\[text\]"'):
        load_tokenizer(folder)
    assert logging.getLogger("transformers").filters == []


def test_without_torch_nothing_is_missed_or_said(folder):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens\n"
        f"print(*tokens(load_tokenizer({str(folder)!r}), 'the end'))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert [*map(int, process.stdout.split())] == tokens(small_tokenizer(), "the end")
    assert process.stderr == ""


DAMAGED = {
    "tokenizer.json": [b"", b"[]", b"\x80", b"[" * 100_000, b"{}", b'{"model": 1}'],
    "tokenizer_config.json": [
        b"",
        b"[]",
        b"\xff",
        b'{"eos_token": 2}',
        b'{"model_max_length": "2"}',
    ],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in DAMAGED.items() for text in texts]
)
def test_a_damaged_file_is_one_error_that_names_it_or_its_folder(tmp_path, name, content):
    small_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path}"):
        prompt_tokens(load_tokenizer(tmp_path), "the")
