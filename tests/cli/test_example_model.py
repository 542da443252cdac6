"""mimo-tiny is the default model; a missing folder or file is named."""

import argparse

import pytest

from mimo_v2_flash.cli import example_model
from mimo_v2_flash.cli.example_model import EXAMPLE, add_model_argument, open_model
from tests.support.tiny_text import TEXT_RECIPE, small_tokenizer, write_text_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_text_checkpoint(tmp_path_factory.mktemp("text")).folder


def test_without_a_folder_it_is_the_example():
    parser = argparse.ArgumentParser()
    add_model_argument(parser)
    assert parser.parse_args([]).model == EXAMPLE
    assert EXAMPLE.parts[-2:] == ("examples", "mimo-tiny")
    assert (EXAMPLE.parents[1] / "run_example.py").is_file()


def test_a_folder_is_opened(folder):
    config, weights, tokenizer = open_model(folder)
    assert config.vocab_size == len(weights.embedding_VD) == TEXT_RECIPE.vocabulary
    assert tokenizer.get_vocab() == small_tokenizer().get_vocab()


def test_an_unknown_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"--model {tmp_path}/none: no such folder$"):
        open_model(tmp_path / "none")


def test_outside_of_a_checkout_there_is_no_example(monkeypatch, tmp_path):
    monkeypatch.setattr(example_model, "EXAMPLE", tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match="it is part of a source checkout, name another one"
    ):
        open_model(tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", "config.json: no such file"),
        ("model_final.safetensors", "model_final.safetensors"),
        ("tokenizer.json", "no tokenizer found"),
    ],
)
def test_a_missing_file_is_named(tmp_path, file, message):
    folder = write_text_checkpoint(tmp_path).folder
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        open_model(folder)
