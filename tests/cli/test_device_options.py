"""--device-map: every command that runs a model takes it, and says what was chosen and why."""

import pytest

from mimo_v2_flash.checkpoint.isq_table import IsqRequest
from mimo_v2_flash.cli.commands import COMMANDS
from mimo_v2_flash.cli.device_options import print_placement
from mimo_v2_flash.cli.main import main
from mimo_v2_flash.cli.parser import CommandParser
from mimo_v2_flash.costs.placement import Placement
from mimo_v2_flash.engine import memory_size
from tests.support.shipped import FOLDER

SHORT = ("--max-new-tokens", "2", "--temperature", "0")


@pytest.mark.parametrize("name", ["generate", "run", "serve", "evaluate"])
def test_what_runs_a_model_takes_it(name):
    parser = CommandParser(command=COMMANDS[name]).load()
    action = next(a for a in parser._actions if "--device-map" in a.option_strings)
    assert action.choices == ("auto",)


def test_the_choice_is_told_and_the_text_is_the_same(capsys):
    texts = []
    for words in ([], ["--device-map", "auto"]):
        assert main(["generate", "--prompt", "The list", *SHORT, *words]) == 0
        out, err = capsys.readouterr()
        texts.append(out)
        assert ("device map: weights as stored, all 3.9 MB of experts resident" in err) == bool(
            words
        )
    assert texts[0] == texts[1]


def test_what_is_impossible_is_one_line_with_the_nearest(capsys, monkeypatch):
    monkeypatch.setattr(memory_size, "free_memory", lambda: 10**6)
    assert main(["generate", "-m", str(FOLDER), "--prompt", "a", "--device-map", "auto"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "mimo generate: --device-map auto: nothing fits into 900.0 kB; the least"
    )
    assert "--expert-cache " in line


@pytest.mark.parametrize(
    ("isq", "budget", "words"),
    [
        (None, None, "all of it fits"),
        ("q4_k", None, "the most precise that fits whole; results are those of --isq"),
        (None, 10, "read from their files when tokens choose them"),
    ],
)
def test_the_reason_is_told(isq, budget, words, capsys):
    print_placement(Placement("so", IsqRequest(isq), [], 0, budget))
    assert words in capsys.readouterr().err
