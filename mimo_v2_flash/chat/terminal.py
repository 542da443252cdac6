"""The terminal of a chat: lines in, text out, on a terminal or through pipes."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from .commands import COMMANDS, EndOfChatError, run_command
from .conversation import Conversation

__all__ = ["Terminal", "history_file", "messages_of", "read_lines"]

QUOTES = '"""'
DIM, NORMAL = "\x1b[2m", "\x1b[0m"
PROMPT = "> "
MOST_INTERRUPTS = 2  # in a row


def read_lines() -> Iterator[str]:
    """Yield the lines that a reader types, or that a pipe brings.

    On a terminal prompt_toolkit edits them, where it is installed: history, several lines by
    Alt-Enter, what is pasted as one. Ctrl-C clears a line, and twice in a row leaves, as Ctrl-D.

    Raises
    ------
    EOFError
        At Ctrl-D on a terminal.
    """
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    read, interrupts = _reader(), 0
    while interrupts < MOST_INTERRUPTS:
        line = _read_or_none(read)
        interrupts = interrupts + 1 if line is None else 0
        if line is not None:
            yield line


def _read_or_none(read: Callable[[], str]) -> str | None:
    """Return a line; None for one that is interrupted."""
    try:
        return read()
    except KeyboardInterrupt:
        sys.stderr.write("Ctrl-C once more, Ctrl-D or /exit leaves.\n")
        return None


def _reader() -> Callable[[], str]:
    """Return a function that reads a line on a terminal."""
    try:
        from prompt_toolkit import PromptSession  # noqa: PLC0415  an extra
        from prompt_toolkit.completion import WordCompleter  # noqa: PLC0415
        from prompt_toolkit.history import FileHistory  # noqa: PLC0415
        from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415
    except ImportError:
        return lambda: input(PROMPT)
    bindings = KeyBindings()

    bindings.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
    session: Any = PromptSession(
        history=FileHistory(str(history_file())),
        completer=WordCompleter([*COMMANDS], sentence=True),
        complete_while_typing=False,
        enable_open_in_editor=True,
        key_bindings=bindings,
    )
    return lambda: str(session.prompt(PROMPT))


def history_file() -> Path:
    """Return the file of what was typed, which nobody else may read; an empty one is made."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    folder = Path(state).expanduser() / "mimo-v2-flash"
    file = folder / "chat_history"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return Path(os.devnull)
    return file


def messages_of(lines: Iterator[str]) -> Iterator[str]:
    """Yield messages: lines, or several of them between triple quotes; empty ones are none."""
    for line in lines:
        text = line
        if line.lstrip().startswith(QUOTES):
            text = line.lstrip().removeprefix(QUOTES)
            while not text.rstrip().endswith(QUOTES):
                following = next(lines, None)
                if following is None:
                    break
                text += f"\n{following}"
            text = text.rstrip().removesuffix(QUOTES)
        if text.strip():
            yield text


class Terminal:
    """A chat between a reader and a model.

    The model's text goes to standard output, all else to standard error. On a terminal thinking
    is dimmed, and stands before the text.

    Parameters
    ----------
    conversation
        The conversation.
    """

    def __init__(self, conversation: Conversation) -> None:
        self._conversation, self._kind, self._is_open = conversation, "content", False
        self._is_terminal = sys.stdout.isatty()
        self._has_colours = self._is_terminal and not os.environ.get("NO_COLOR")

    def run(self, messages: Iterator[str]) -> int:
        """Answer messages until there are none, or the reader leaves; return how many failed."""
        failed = 0
        with suppress(EndOfChatError, EOFError):
            for message in messages:
                failed += not self.answer(message)
        return failed

    def answer(self, message: str) -> bool:
        """Answer a message, or run the command that it is; return whether that succeeded."""
        try:
            self._answer(message)
        except (ValueError, OSError, RuntimeError) as error:
            self._end()
            self._tell(" ".join(str(error).splitlines()))
            return False
        return True

    def _answer(self, message: str) -> None:
        if message.startswith(("/", "\\")):
            text = run_command(self._conversation, message, self._show)
        else:
            text = str(self._conversation.reply(message, self._show))
        self._end()
        self._tell(text)

    def _show(self, kind: str, part: str) -> None:
        """Write the next part of an answer."""
        out = self._stream(kind)
        if kind != self._kind:
            self._end()
            out.write(DIM if self._has_colours and kind == "reasoning" else "")
        self._kind, self._is_open = kind, True
        out.write(part)
        out.flush()

    def _end(self) -> None:
        """End what is written with a line's end, and its colour."""
        if self._is_open:
            out = self._stream(self._kind)
            out.write(NORMAL if self._has_colours and self._kind == "reasoning" else "")
            out.write("\n")
            out.flush()
        self._is_open, self._kind = False, "content"

    def _stream(self, kind: str) -> TextIO:
        return sys.stdout if kind == "content" or self._is_terminal else sys.stderr

    def _tell(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
