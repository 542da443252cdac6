"""The terminal of a chat: lines of pipes and of people, and where texts go."""

import contextlib
import io
import os
import sys

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from mimo_v2_flash.chat import terminal
from mimo_v2_flash.chat.conversation import Reply
from mimo_v2_flash.chat.terminal import Terminal, history_file, messages_of, read_lines


class Screen(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


class Echo:
    """A conversation that thinks about a message, and repeats it."""

    def __init__(self, *, fails=False):
        self.seen, self._fails = [], fails

    def reply(self, text, show):
        self.seen.append(text)
        show("reasoning", "hm")
        show("content", text)
        if self._fails:
            raise ValueError("a line\nand another")
        return Reply(1, 2, 0, 0.5, 1.5, "stop")


def test_messages_are_lines_or_stand_between_quotes():
    lines = iter(
        ["one", "", '"""two', "three", 'four"""', '"""five"""', '  """', "six", '"""', "/x"]
    )
    assert list(messages_of(lines)) == ["one", "two\nthree\nfour", "five", "\nsix\n", "/x"]
    assert list(messages_of(iter(['"""never', "ended"]))) == ["never\nended"]


def test_a_pipe_brings_lines(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo"))
    assert list(read_lines()) == ["one", "two"]


def test_a_reader_edits_lines_on_a_terminal(monkeypatch, tmp_path):
    lines = []
    monkeypatch.setattr(sys, "stdin", Screen())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("onw\x7fe\rtwo\x1b\rthree\r\x1b[200~a\nb\x1b[201~\r\x04")
        with contextlib.suppress(EOFError):
            for line in read_lines():
                lines.append(line)  # noqa: PERF402  they are kept though the end raises
            raise AssertionError
    assert lines == ["one", "two\nthree", "a\nb"]
    assert "one" in history_file().read_text()


def test_ctrl_c_twice_leaves(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stdin", Screen())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("half\x03one\r\x03\x03")
        assert list(read_lines()) == ["one"]
    assert "Ctrl-D or /exit leaves" in capsys.readouterr().err


def test_without_prompt_toolkit_lines_are_read_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Screen("one\n"))
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    monkeypatch.setattr("builtins.input", lambda _: "one")
    assert next(read_lines()) == "one"


def test_nobody_else_may_read_what_was_typed(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert history_file().stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)
    assert str(history_file()) == os.devnull


def test_through_pipes_the_text_alone_goes_to_standard_output(capsys):
    assert Terminal(Echo()).run(iter(["one", "two"])) == 0
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err.startswith("hm\nfirst token 0.50 s")


@pytest.mark.parametrize(("no_color", "dim"), [("", True), ("1", False)])
def test_on_a_terminal_thinking_is_dimmed(monkeypatch, no_color, dim):
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", no_color)
    Terminal(Echo()).run(iter(["one"]))
    expected = f"{terminal.DIM}hm{terminal.NORMAL}\none\n" if dim else "hm\none\n"
    assert screen.getvalue() == expected


def test_what_fails_is_one_line_and_the_chat_goes_on(capsys):
    conversation = Echo(fails=True)
    assert Terminal(conversation).run(iter(["one", "two"])) == 2
    assert conversation.seen == ["one", "two"]
    assert "a line and another\n" in capsys.readouterr().err
