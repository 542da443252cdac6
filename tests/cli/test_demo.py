"""The demo writes a text as `mimo generate` does, and then checks every kernel."""

import json

import pytest

from mimo_v2_flash.cli import demo, self_check
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.cli.result import Result


@pytest.fixture
def quick(monkeypatch):
    """Let the demo check nothing, and write a few tokens."""
    monkeypatch.setattr(demo, "WORDS", ("--prompt", "The list type", "--max-new-tokens", "4"))
    monkeypatch.setattr(self_check, "run", lambda seed: Result({"seed": seed}, 1))


def test_a_text_is_that_of_generate_and_the_status_that_of_the_checks(quick, capsys):
    assert main(["demo", "--seed", "3", "--json"]) == 1
    numbers = json.loads(capsys.readouterr().out)
    words = ["generate", *demo.WORDS, "--seed", "3", "--json"]
    assert main(words) == 0
    written = json.loads(capsys.readouterr().out)
    assert numbers["generate"]["new_tokens"] == written["new_tokens"] != []
    assert numbers["test"] == {"seed": 3}


def test_without_a_seed_a_text_has_a_fresh_one_and_the_checks_have_zero(quick, capsys):
    assert main(["demo", "--json"]) == 1
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["generate"]["seed"] is not None
    assert numbers["test"] == {"seed": 0}
