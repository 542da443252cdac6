"""Spelling of options in errors: a library's parameter is named by the option that was typed."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["as_typed"]

PARAMETERS = {
    "batch_size": "batch_size",
    "data_parallel_size": "data_parallel",
    "expert_parallel_size": "expert_parallel",
    "max_length": "context",
    "max_step": "chunk",
    "tensor_parallel_size": "tensor_parallel",
}
"""Options by the parameters that have another name, or a default that options decide."""

TOKEN_ID = re.compile("token ids? ")
FIRST_WORD = re.compile(r"[a-z]+(?:_[a-z]+)+|[a-z]+(?= is | must |: | = )")
"""A parameter at the beginning of a message; a word without "_" only where a verb follows."""


def as_typed(error: Exception, options: Mapping[str, Any], spelled: Mapping[str, str]) -> str:
    """Return the message of an error of a command, which begins with the option that it is of.

    Parameters
    ----------
    error
        The error. An OSError names the option whose value is its file.
    options
        Values of all options, by their destinations.
    spelled
        The options that were typed, by their destinations.
    """
    if isinstance(error, OSError) and error.filename is not None:
        file = str(error.filename)
        names = [name for name in spelled if str(options.get(name)) == file]
        reason = (error.strerror or type(error).__name__).lower()
        return " ".join([*(spelled[name] for name in names[:1]), f"{file}: {reason}"])
    message = str(error) or type(error).__name__
    if TOKEN_ID.match(message):
        typed = [spelled[name] for name in ("tokens", "prompt_ids") if name in spelled]
        return ": ".join([*typed, message])
    return _named(message, options, spelled)


def _named(message: str, options: Mapping[str, Any], spelled: Mapping[str, str]) -> str:
    """Return a message with the option for the parameter that it begins with."""
    match = FIRST_WORD.match(message)
    if match is None:
        return message
    parameter, option = match[0], PARAMETERS.get(match[0], "")
    if option in options:
        name = spelled.get(option, f"--{option.replace('_', '-')}")
    else:
        name = spelled.get(parameter, parameter)
    return name + message[match.end() :].removeprefix(" =")
