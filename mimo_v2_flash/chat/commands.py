"""Commands of a chat: lines that begin with a slash are for the program, not for the model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .conversation import SETTINGS, Conversation, Show, parse_value

__all__ = ["COMMANDS", "EndOfChatError", "run_command"]

SWITCHES = {"on": True, "off": False}


class EndOfChatError(Exception):
    """The reader leaves."""


def run_command(conversation: Conversation, line: str, show: Show) -> str:
    """Run a line such as "/set temperature 0.3", and return what to tell the reader.

    Parameters
    ----------
    conversation : Conversation
        The conversation, which the command changes.
    line : str
        The line, which begins with a slash.
    show : callable
        Shows pieces of an answer as they come.

    Raises
    ------
    ValueError, OSError
        If it cannot be done; the conversation stays as it was.
    EndOfChatError
        If the reader leaves.
    """
    name, _, argument = line.partition(" ")
    name = ALIASES.get(name, name)
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name:.40}; /help lists them")
    return COMMANDS[name][0](conversation, argument.strip(), show)


def _help(*_: Any) -> str:
    lines = [f"{name:8} {meaning}" for name, (_, meaning) in COMMANDS.items()]
    return "\n".join([*lines, '""" begins and ends a message of several lines.'])


def _clear(conversation: Conversation, *_: Any) -> str:
    conversation.messages.clear()
    return "The conversation is empty."


def _system(conversation: Conversation, argument: str, _: Show) -> str:
    conversation.system = argument or None
    return "The system message is set." if argument else "The system message is the template's."


def _think(conversation: Conversation, argument: str, _: Show) -> str:
    if argument not in SWITCHES:
        raise ValueError("/think takes on or off")
    conversation.enable_thinking = SWITCHES[argument]
    return f"Thinking is {argument}."


def _regenerate(conversation: Conversation, _: str, show: Show) -> str:
    return str(conversation.regenerate(show))


def _undo(conversation: Conversation, *_: Any) -> str:
    conversation.undo()
    return "The last message and its answer are gone."


def _set(conversation: Conversation, argument: str, _show: Show) -> str:
    name, _, value = argument.partition(" ")
    if name:
        conversation.set(name, parse_value(value.strip()) if value.strip() else None)
    settings = json.dumps(conversation.settings)
    return f"{settings}; there are {', '.join(SETTINGS)}" if not name else settings


def _save(conversation: Conversation, argument: str, _: Show) -> str:
    conversation.save(_file("/save", argument))
    return f"{argument} has {len(conversation.messages)} messages."


def _load(conversation: Conversation, argument: str, _: Show) -> str:
    conversation.load(_file("/load", argument))
    return f"{len(conversation.messages)} messages."


def _file(name: str, argument: str) -> Path:
    if not argument:
        raise ValueError(f"{name} takes a file")
    return Path(argument).expanduser()


def _tokens(conversation: Conversation, *_: Any) -> str:
    return f"{conversation.tokens()} of {conversation.runner.max_sequence_length} tokens."


def _stats(conversation: Conversation, *_: Any) -> str:
    stats = conversation.runner.stats
    lines = [] if conversation.last is None else [str(conversation.last)]
    lines.append(f"{stats.finished} answers, {stats.decode_tokens} tokens decoded")
    if drafted := sum(stats.drafted):
        lines.append(
            f"{stats.tokens_per_step:.2f} tokens per step: {sum(stats.accepted)} of {drafted} "
            f"drafts accepted, {stats.draft_seconds:.2f} s in drafting"
        )
    return "\n".join(lines)


def _experts(conversation: Conversation, *_: Any) -> str:
    if conversation.experts_touched is None:
        raise ValueError("experts are counted on NumPy alone")
    return "{} of {} experts have computed a token.".format(*conversation.experts_touched())


def _exit(*_: Any) -> str:
    raise EndOfChatError


ALIASES = {"/bye": "/exit", "/quit": "/exit", "\\exit": "/exit", "/?": "/help"}

COMMANDS: dict[str, tuple[Callable[[Conversation, str, Show], str], str]] = {
    "/help": (_help, "List the commands."),
    "/clear": (_clear, "Begin a new conversation."),
    "/system": (_system, "Set the system message; without a text, the template's own."),
    "/think": (_think, "Let the model think before it answers, on or off."),
    "/regen": (_regenerate, "Answer the last message once more."),
    "/undo": (_undo, "Take the last message and its answer back."),
    "/set": (_set, "Show the settings, set one (/set temperature 0.3), or reset it (/set seed)."),
    "/save": (_save, "Write the conversation to a file."),
    "/load": (_load, "Continue the conversation in a file."),
    "/tokens": (_tokens, "Count the tokens of the conversation."),
    "/stats": (_stats, "Show how the last answer came."),
    "/experts": (_experts, "Count the experts that have computed a token."),
    "/exit": (_exit, "Leave; so does Ctrl-D."),
}
"""Functions of a conversation, the rest of the line and where to show text; and their help."""
