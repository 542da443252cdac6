"""mimo-tiny is the default model; a missing folder is named by its option."""

import argparse

import pytest

from mimo_v2_flash.cli import example_model
from mimo_v2_flash.cli.example_model import EXAMPLE, add_model_argument, check_folder


def test_without_a_folder_it_is_the_example():
    parser = argparse.ArgumentParser()
    add_model_argument(parser)
    assert parser.parse_args([]).model == EXAMPLE
    assert EXAMPLE.parts[-2:] == ("examples", "mimo-tiny")
    assert (EXAMPLE.parents[1] / "run_example.py").is_file()


def test_a_folder_passes(tmp_path):
    check_folder(tmp_path)


def test_an_unknown_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"--model {tmp_path}/none: no such folder$"):
        check_folder(tmp_path / "none")


def test_outside_of_a_checkout_there_is_no_example(monkeypatch, tmp_path):
    monkeypatch.setattr(example_model, "EXAMPLE", tmp_path / "none")
    with pytest.raises(
        FileNotFoundError, match="it is part of a source checkout, name another one"
    ):
        check_folder(tmp_path / "none")
