"""llama.cpp, which shares no code with this project, computes the same from files written here."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.llama_cpp import LlamaCpp, find_library
from mimo_v2_flash import load_model
from mimo_v2_flash.text.tokenizer import load_tokenizer, tokens
from tests.support.gguf_models import write_shipped
from tests.support.shipped import FOLDER

pytestmark = pytest.mark.skipif(
    find_library() is None or sys.byteorder != "little",
    reason="llama.cpp is not installed: its wheel, xllamacpp, is for Linux on x86-64",
)
TEXT = (FOLDER / "README.md").read_text()
PROMPT, GREEDY = 150, 60  # past the window's edge, at 129


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """Return llama.cpp and this project, each with the same GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "mimo-tiny.gguf"
    write_shipped(path, FOLDER)
    llama = LlamaCpp(path, threads=1)
    yield llama, load_model(path)
    llama.close()


def test_a_text_and_the_chat_template_have_the_same_tokens(peer):
    tokenizer = load_tokenizer(FOLDER)
    for text in (TEXT, tokenizer.chat_template, "\u00e9  12345\r\n\u4f60\u597d <think>"):
        assert peer[0].tokens(text) == tokens(tokenizer, text, add_special_tokens=True)


@pytest.mark.parametrize("length", [1, 128, 129, 130, 400])
def test_logits_are_equal(peer, length):
    llama, model = peer
    ids = np.array([tokens(load_tokenizer(FOLDER), TEXT)[:length]])
    llama.start(1, length, exact=True)
    expected, logits = llama.step(ids), model.forward(ids)
    assert np.abs(logits - expected).max() <= 2e-5 * np.ptp(expected)
    assert np.array_equal(logits.argmax(-1), expected.argmax(-1))


def test_a_greedy_text_is_the_same(peer):
    llama, model = peer
    prompt = tokens(load_tokenizer(FOLDER), TEXT)[:PROMPT]
    llama.start(1, PROMPT + GREEDY, exact=True)
    logits, text = llama.step(np.array([prompt]), last_only=True), []
    for _ in range(GREEDY):
        text.append(int(logits[0, -1].argmax()))
        logits = llama.step(np.array([[text[-1]]]))
    generated = model.generate([prompt], max_new_tokens=GREEDY, temperature=0, eos_token_id=[])
    assert list(generated[0]) == text


def test_a_window_of_one_key_fewer_is_seen(peer, tmp_path):
    """llama.cpp's own converter writes the hub's 128: from token 129 on it is another model."""
    import gguf

    path = tmp_path / "window.gguf"
    write_shipped(path, FOLDER)
    field = gguf.GGUFReader(path, "r+").get_field("mimo2.attention.sliding_window")
    field.parts[field.data[0]][0] = 128
    llama = LlamaCpp(Path(path), threads=1)
    ids = np.array([tokens(load_tokenizer(FOLDER), TEXT)[:140]])
    llama.start(1, 140, exact=True)
    difference = np.abs(llama.step(ids) - peer[1].forward(ids))[0].max(-1)
    llama.close()
    assert difference[:128].max() < 1e-3 < difference[129:].max()
