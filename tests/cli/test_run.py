"""`mimo run`: a chat through pipes, one answer, and the spelling that puts -i first."""

import io
import json
import sys

import pytest

from mimo_v2_flash.cli.main import main

FAST = ["--max-new-tokens", "4", "--temperature", "0", "--max-length", "128"]


def test_lines_of_a_pipe_are_a_chat(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("What is a list?\n/tokens\n/exit\nnever read\n"))
    assert main(["-i", "run", "-m", "examples/mimo-tiny", *FAST]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert "of 128 tokens." in err
    assert "never" not in out + err


def test_a_text_is_answered_once(capsys):
    assert (
        main(["run", "--architecture", "mimov2flash", "-i", "What is a list?", *FAST, "--json"])
        == 0
    )
    out, err = capsys.readouterr()
    messages = json.loads(out)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["content"].strip() in err


def test_an_answer_that_fails_is_told_by_the_status(capsys):
    assert main(["run", "-i", "list " * 300, *FAST]) == 1
    assert "maximum context length is 128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--architecture", "llama"], "--architecture is 'llama', allowed is mimov2flash"),
        (["-m", "nowhere"], "--model nowhere: no such folder"),
        (["--temperature", "-1"], "--temperature is -1.0"),
    ],
)
def test_options_that_make_no_sense_are_one_line(capsys, options, words):
    assert main(["run", "-i", "x", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
