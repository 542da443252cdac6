"""Answers to requests of /tokenize and /detokenize."""

from typing import Any

from mimo_v2_flash.text.chat_template import chat_prompt

from .errors import APIError
from .protocol import DetokenizeRequest, TokenizeRequest
from .served_model import ServedModel

__all__ = ["detokenize", "tokenize"]


def tokenize(request: TokenizeRequest, served: ServedModel) -> dict[str, Any]:
    """Return the token ids of a text or a chat."""
    if (request.prompt is None) == (request.messages is None):
        raise APIError("expected is prompt, a text, or messages", param="prompt")
    if request.prompt is not None:
        ids = served.encode(request.prompt, add_special_tokens=request.add_special_tokens)
    else:
        ids = _chat_tokens(request, served)
    strings = None
    if request.return_token_strs:
        strings = served.tokenizer.convert_ids_to_tokens(ids)
    return {
        "count": len(ids),
        "max_model_len": served.max_length,
        "tokens": ids,
        "token_strs": strings,
    }


def _chat_tokens(request: TokenizeRequest, served: ServedModel) -> list[int]:
    try:
        return chat_prompt(
            served.tokenizer,
            request.messages or [],
            tools=request.tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            enable_thinking=(request.chat_template_kwargs or {}).get("enable_thinking"),
        ).tokens
    except ValueError as error:
        raise APIError(str(error), param="messages") from error


def detokenize(request: DetokenizeRequest, served: ServedModel) -> dict[str, Any]:
    """Return the text of token ids, special tokens included."""
    size = served.vocab_size
    if wrong := [token for token in request.tokens if not 0 <= token < size]:
        raise APIError(f"tokens has {wrong[0]}, allowed is 0..{size - 1}", param="tokens")
    return {"prompt": served.tokenizer.decode(request.tokens)}
