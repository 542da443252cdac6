"""tokenizer_vocab: the tokens and the end token that transformers' tokenizer has."""

import json
import shutil
from pathlib import Path

import pytest

from mimo_v2_flash.generation.tokenizer_vocab import TokenizerVocab, read_tokenizer_vocab
from mimo_v2_flash.text.tokenizer import load_tokenizer
from tests.support.tiny_text import small_tokenizer, write_json

NAMES = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    small_tokenizer().save_pretrained(folder)
    return folder


def content(saved, name: str, without=(), **changes):
    """Return the content of a saved file with changes."""
    old = json.loads((saved / name).read_text())
    return {key: value for key, value in old.items() if key not in without} | changes


def folder_with(saved, path, files) -> Path:
    for name in NAMES:
        shutil.copy(saved / name, path)
    for name, data in files.items():
        write_json(path / name, data)
    return path


END = {"content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False}
DECODER = {"300": {**END, "content": "<more>", "special": True}}
CHANGES = [
    {},
    {"eos_token": "<|im_end|>"},
    {"eos_token": {"__type": "AddedToken", **END}},
    {"eos_token": None},
    {"added_tokens_decoder": DECODER},
    {"added_tokens_decoder": DECODER, "eos_token": "<more>"},
    {"added_tokens_decoder": {}},
]


@pytest.mark.parametrize("special", [None, {}, {"eos_token": "<|im_start|>"}, {"eos_token": END}])
@pytest.mark.parametrize("config", CHANGES)
def test_it_is_what_transformers_loads(saved, tmp_path, config, special):
    files = {"tokenizer_config.json": content(saved, "tokenizer_config.json", **config)}
    if special is not None:
        files["special_tokens_map.json"] = special
    folder = folder_with(saved, tmp_path, files)
    loaded, vocab = load_tokenizer(folder), read_tokenizer_vocab(folder)
    assert vocab.token_ids == {*loaded.get_vocab().values()}
    assert vocab.eos_token_id == loaded.eos_token_id
    assert vocab.eos_token_id is None or loaded.eos_token in vocab.source.read_text()


def test_without_tokenizer_json_the_vocabulary_is_in_two_files(tmp_path):
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1})
    assert read_tokenizer_vocab(tmp_path)[:2] == ({0, 1}, None)
    write_json(tmp_path / "added_tokens.json", {"<end>": 2, "a": 9})
    write_json(tmp_path / "special_tokens_map.json", {"eos_token": "<end>"})
    source = tmp_path / "special_tokens_map.json"
    assert read_tokenizer_vocab(tmp_path) == TokenizerVocab(frozenset({0, 1, 2}), 2, source)


def test_the_pieces_of_a_unigram_model_are_numbered(tmp_path):
    added = [{"content": "<end>", "id": 2}]
    pieces = {"model": {"vocab": [["a", -1.5], ["b", -2.0]]}, "added_tokens": added}
    write_json(tmp_path / "tokenizer.json", pieces)
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "<end>"})
    assert read_tokenizer_vocab(tmp_path)[:2] == ({0, 1, 2}, 2)


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": "x"})
    assert read_tokenizer_vocab(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("tokenizer.json", {}, "no tokens in model.vocab"),
        ("tokenizer.json", {"model": {"vocab": {"a": "0"}}, "added_tokens": []}, "'a' has id '0'"),
        ("tokenizer.json", {"model": {"vocab": {"a": -1}}, "added_tokens": []}, "'a' has id -1"),
        ("tokenizer.json", {"model": {"vocab": [1]}, "added_tokens": []}, "no tokens in"),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [{"id": 3}]}, "no tokens in"),
        ("tokenizer_config.json", {"eos_token": "<no>"}, "eos_token is '<no>', which the token"),
        ("tokenizer_config.json", {"eos_token": ["a"]}, "eos_token is "),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "is no map"),
        ("special_tokens_map.json", {"eos_token": "<no>"}, "eos_token is '<no>'"),
        ("special_tokens_map.json", [], "a JSON object is needed"),
    ],
)
def test_a_damaged_file_is_named(saved, tmp_path, name, data, message):
    folder = folder_with(saved, tmp_path, {name: data})
    with pytest.raises(ValueError, match=f"^{folder / name}: .*{message}"):
        read_tokenizer_vocab(folder)
