"""mimo-tiny is the default model; a missing folder is named by its option."""

import argparse
import json
from pathlib import Path

import pytest

from mimo_v2_flash import example_folder
from mimo_v2_flash.cli.example_model import add_model_argument, check_folder
from mimo_v2_flash.cli.main import main
from tests.support.tiny_text import write_text_checkpoint


def test_without_a_folder_it_is_the_example():
    parser = argparse.ArgumentParser()
    add_model_argument(parser)
    assert parser.parse_args([]).model == example_folder("mimo-tiny")
    assert parser.parse_args(["-m", "mimo-tiny"]).model == example_folder("mimo-tiny")


def test_a_folder_passes(tmp_path):
    check_folder(tmp_path)


def test_an_unknown_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"--model {tmp_path}/none: no such folder$"):
        check_folder(tmp_path / "none")


def test_a_misspelled_example_is_named_beside_the_one_that_was_meant():
    line = r"^--model mimo-tniy: no such folder; did you mean mimo-tiny\?$"
    with pytest.raises(FileNotFoundError, match=line):
        check_folder(Path("mimo-tniy"))


@pytest.mark.parametrize("command", ["generate", "run"])
def test_a_config_is_warned_of_once(command, tmp_path):
    """Commands read the config, and loading reads it again."""
    folder = write_text_checkpoint(tmp_path / "model").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"unheard_of": 1}))
    prompt = "--prompt" if command == "generate" else "--input"
    words = (command, "--model", str(folder), prompt, "the", "--max-new-tokens", "1")
    with pytest.warns(UserWarning, match="unheard_of") as caught:
        assert main(words) == 0
    assert [str(each.message).endswith("without effect: unheard_of") for each in caught] == [True]
