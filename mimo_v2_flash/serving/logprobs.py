"""Log-probabilities in the shapes of OpenAI's API."""

from collections.abc import Sequence
from typing import Any

from mimo_v2_flash.engine.outputs import TokenLogprob
from mimo_v2_flash.text.token_bytes import token_bytes

__all__ = ["chat_logprobs", "completion_logprobs", "token_entries"]

LEAST = -9999.0  # JSON has no infinity


def chat_logprobs(tokenizer: Any, logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return the log-probabilities of a chat's tokens."""
    return {"content": token_entries(tokenizer, logprobs), "refusal": None}


def token_entries(tokenizer: Any, logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return the log-probability of each token, with the most probable ones there."""
    return [
        {
            **_entry(tokenizer, each.token, each.logprob),
            "top_logprobs": [_entry(tokenizer, *pair) for pair in each.top],
        }
        for each in logprobs
    ]


def completion_logprobs(
    tokenizer: Any, logprobs: Sequence[TokenLogprob | int], offset: int
) -> dict[str, Any]:
    """Return the log-probabilities of a completion's tokens, from a character of its text on.

    The first token of a prompt has none: it is an id alone.

    Parameters
    ----------
    tokenizer : tokenizer
        The tokenizer.
    logprobs : sequence of TokenLogprob or int
        Log-probability of each token, or its id alone.
    offset : int
        Characters of the text before the first token.
    """
    result: dict[str, list[Any]] = {
        name: [] for name in ("text_offset", "token_logprobs", "tokens", "top_logprobs")
    }
    for each in logprobs:
        known = None if isinstance(each, int) else each
        token_id = each if isinstance(each, int) else each.token
        token = _text(tokenizer, token_id)
        result["text_offset"].append(offset)
        result["tokens"].append(token)
        result["token_logprobs"].append(known and max(known.logprob, LEAST))
        top = known and {_text(tokenizer, t): max(p, LEAST) for t, p in known.top}
        result["top_logprobs"].append(top)
        offset += len(tokenizer.decode([token_id], skip_special_tokens=True))
    return result


def _entry(tokenizer: Any, token: int, logprob: float) -> dict[str, Any]:
    content = token_bytes(tokenizer, token)
    text = content.decode(errors="replace")
    return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(content)}


def _text(tokenizer: Any, token: int) -> str:
    return token_bytes(tokenizer, token).decode(errors="replace")
