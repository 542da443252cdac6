"""What happens to a chat that no longer fits into the model's context."""

from collections.abc import Callable, Sequence
from typing import Any

from mimo_v2_flash.text.chat_template import ChatPrompt

__all__ = ["drop_oldest_turns"]

SYSTEM = ("system", "developer")


def drop_oldest_turns(
    render: Callable[[Sequence[Any]], ChatPrompt], messages: Sequence[Any], limit: int
) -> tuple[ChatPrompt, int]:
    """Return the prompt of a chat without its oldest turns, and how many were dropped.

    A turn is a message of the user with all that follows it until the next; it goes whole, so that
    no tool's result is left without its call. System messages stay, and so does the last turn.

    Parameters
    ----------
    render
        Returns the prompt of messages.
    messages
        The messages.
    limit
        The most tokens of the prompt.
    """
    prompt, dropped = render(messages), 0
    while len(prompt.tokens) > limit:
        kept = _without_oldest_turn(messages)
        if kept is None:
            break
        messages, dropped = kept, dropped + 1
        prompt = render(messages)
    return prompt, dropped


def _without_oldest_turn(messages: Sequence[Any]) -> list[Any] | None:
    """Return messages without the first turn; None if there is only one."""
    starts = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    if len(starts) < 2:
        return None
    first, second = starts[:2]
    between = [each for each in messages[first:second] if each.get("role") in SYSTEM]
    return [*messages[:first], *between, *messages[second:]]
