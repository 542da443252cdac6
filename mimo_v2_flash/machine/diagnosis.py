"""A diagnosis: what a check of this machine came to, and the command that mends it."""

from typing import Any, NamedTuple

__all__ = ["NOTE", "OK", "PROBLEM", "Diagnosis", "attempt"]

OK, NOTE, PROBLEM = "ok", "note", "problem"
"""Levels: all is well; something optional is missing; something will not work."""


class Diagnosis(NamedTuple):
    """What a check came to.

    Attributes
    ----------
    topic
        What was looked at.
    text
        What it is like.
    level
        `OK`, `NOTE` or `PROBLEM`.
    remedy
        The command that mends it, or where one is described; empty if all is well.
    numbers
        The same as values, for `--json`.
    """

    topic: str
    text: str
    level: str = OK
    remedy: str = ""
    numbers: dict[str, Any] = {}  # noqa: RUF012  a NamedTuple's default, never changed


def attempt(topic: str, check: Any, remedy: str, level: str = PROBLEM) -> Diagnosis:
    """Return the diagnosis of `check()`; what it raises is one of `level`, with this remedy.

    Parameters
    ----------
    topic
        What is diagnosed.
    check
        It returns a text, or raises.
    remedy
        The command that mends it.
    level
        The level if it raises.
    """
    try:
        return check()
    except Exception as error:  # of any library: a doctor does not die
        reason = " ".join(str(error).split()) or type(error).__name__
        return Diagnosis(topic, reason[:300], level, remedy)
