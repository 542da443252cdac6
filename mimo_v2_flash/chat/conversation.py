"""A conversation: messages, settings, and answers that come as they are written."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.json_object import parse_json, read_json_object, shorten
from mimo_v2_flash.runner import Runner

__all__ = ["SETTINGS", "Conversation", "Reply", "Show", "parse_value"]

SETTINGS = (
    *("temperature", "top_p", "top_k", "min_p", "max_tokens", "seed", "stop"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "ignore_eos"),
)
"""Fields of requests that a conversation may set."""

THOUGHT = "reasoning_content"

Show = Callable[[str, str], None]
"""Called with "reasoning" or "content", and the next part of it."""


class Reply(NamedTuple):
    """How an answer came.

    Attributes
    ----------
    prompt_tokens, new_tokens, cached_tokens
        Tokens of the conversation, of the answer, and of the conversation that were known.
    first_token_seconds, seconds
        Time to the answer's first part, and to its end.
    finish_reason
        As OpenAI's API has it; "interrupted" where the reader stopped it.
    """

    prompt_tokens: int
    new_tokens: int
    cached_tokens: int
    first_token_seconds: float
    seconds: float
    finish_reason: str

    def __str__(self) -> str:
        """Return the line that tells it."""
        rest = max(self.seconds - self.first_token_seconds, 1e-9)
        return (
            f"first token {self.first_token_seconds:.2f} s, prompt {self.prompt_tokens} tokens "
            f"({self.cached_tokens} known), {self.new_tokens} new at "
            f"{max(self.new_tokens - 1, 0) / rest:.1f} tokens/s, {self.finish_reason}"
        )


class Conversation:
    """A chat with a model.

    Parameters
    ----------
    runner
        The model.
    system : str, optional
        The system message; the template's own if not given.
    settings
        Fields of requests, of `SETTINGS`.
    enable_thinking : bool, optional
        Whether the model thinks before it answers; the template decides if not given.
    experts_touched : callable, optional
        Returns how many experts have computed a token, and of how many.

    Attributes
    ----------
    messages
        What was said, without the system message.
    last
        How the last answer came.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        system: str | None = None,
        settings: dict[str, Any] | None = None,
        enable_thinking: bool | None = None,
        experts_touched: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self.runner, self.system, self.enable_thinking = runner, system, enable_thinking
        self.experts_touched = experts_touched
        self.messages: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.last: Reply | None = None
        for name, value in (settings or {}).items():
            self.set(name, value)

    def set(self, name: str, value: Any) -> None:
        """Set a field of the requests to come; None resets it.

        Raises
        ------
        ValueError
            If there is no such field, or the value is not allowed.
        """
        if name not in SETTINGS:
            raise ValueError(f"{shorten(name)} is no setting; there are {', '.join(SETTINGS)}")
        if value is None:
            self.settings.pop(name, None)
            return
        self.runner.check_fields({name: value})
        self.settings[name] = value

    def request(self) -> dict[str, Any]:
        """Return the fields of a request for the next answer."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        fields: dict[str, Any] = {"messages": [*system, *self.messages], **self.settings}
        if self.enable_thinking is not None:
            fields["chat_template_kwargs"] = {"enable_thinking": self.enable_thinking}
        return fields

    def reply(self, text: str, show: Show) -> Reply:
        """Answer a message; an interrupt ends the answer, of which the rest stays.

        Raises
        ------
        ValueError, RuntimeError
            If there is no answer; the message is taken back.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            return self._answer(show)
        except Exception:
            self.messages.pop()
            raise

    def regenerate(self, show: Show) -> Reply:
        """Answer the last message once more.

        Raises
        ------
        ValueError
            If there is none.
        """
        end = self._last_question() + 1
        answer, self.messages[end:] = self.messages[end:], []
        try:
            return self._answer(show)
        except Exception:
            self.messages += answer
            raise

    def undo(self) -> None:
        """Take the last message and its answer back; ValueError if there is none."""
        del self.messages[self._last_question() :]

    def _last_question(self) -> int:
        """Return the index of the user's last message; ValueError if there is none."""
        for index in reversed(range(len(self.messages))):
            if self.messages[index]["role"] == "user":
                return index
        raise ValueError("there is no message yet")

    def _answer(self, show: Show) -> Reply:
        start, first, reason = time.perf_counter(), None, "interrupted"
        message = {"role": "assistant", "content": "", "reasoning_content": ""}
        stream_options = {"include_usage": True, "continuous_usage_stats": True}
        options: dict[str, Any] = {"stream": True, "stream_options": stream_options}
        chunks, usage = self.runner.chat_completion(**self.request(), **options), None
        try:
            for chunk in chunks:
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
                    for field, part in _parts(choice.delta):
                        first = first or time.perf_counter()
                        message[field] += part
                        show(field.removesuffix("_content"), part)
        except KeyboardInterrupt:
            pass  # what was said is kept
        finally:
            chunks.close()
        if not message[THOUGHT]:
            del message[THOUGHT]
        self.messages.append(message)
        end = time.perf_counter()
        self.last = _reply(usage, (first or end) - start, end - start, reason)
        return self.last

    def save(self, file: Path) -> None:
        """Write the conversation to a file of JSON, which is replaced as a whole."""
        content = {
            "system": self.system,
            "enable_thinking": self.enable_thinking,
            "settings": self.settings,
            "messages": self.messages,
        }
        with atomic_write(file) as partial:
            partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def load(self, file: Path) -> None:
        """Continue the conversation in a file.

        Raises
        ------
        ValueError
            If it is none; this conversation stays as it was.
        """
        content = read_json_object(file)
        other = Conversation(
            self.runner,
            system=content.get("system"),
            enable_thinking=content.get("enable_thinking"),
        )
        try:
            for name, value in dict(content.get("settings") or {}).items():
                other.set(name, value)
            other.messages = list(content["messages"])
            if other.messages:
                self.runner.count_tokens(**other.request())
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: no conversation: {error}") from error
        self.system, self.enable_thinking = other.system, other.enable_thinking
        self.settings, self.messages = other.settings, other.messages

    def tokens(self) -> int:
        """Return how many tokens the conversation has."""
        return self.runner.count_tokens(**self.request()) if self.messages else 0


def _parts(delta: Any) -> list[tuple[str, str]]:
    """Return the texts of a delta, by their fields."""
    parts = [(field, getattr(delta, field, None)) for field in (THOUGHT, "content")]
    return [(field, text) for field, text in parts if text]


def _reply(usage: Any, first_seconds: float, seconds: float, reason: str) -> Reply:
    if usage is None:
        return Reply(0, 0, 0, first_seconds, seconds, reason)
    details = usage.prompt_tokens_details
    cached = getattr(details, "cached_tokens", None) or 0
    tokens = usage.prompt_tokens, usage.completion_tokens, cached
    return Reply(*tokens, first_seconds, seconds, reason)


def parse_value(text: str) -> Any:
    """Return the value that a text is: JSON, or the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        return text
