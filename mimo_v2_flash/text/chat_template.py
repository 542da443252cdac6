"""Chat prompts: messages and tools, as the checkpoint's chat template writes them for the model.

prompt = chat_prompt(load_tokenizer(folder), [{"role": "user", "content": "Hello"}])

transformers renders templates in jinja2's sandbox (`ImmutableSandboxedEnvironment`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .chat_messages import normalize_messages, normalize_tools
from .special_tokens import SpecialTokenGuard
from .tokenizer import end_of_text, named_errors, tokens

__all__ = ["ChatPrompt", "chat_prompt", "prompt_tokens"]

TURN, THINK, THINK_END = "<|im_start|>", "<think>", "</think>"


class ChatPrompt(NamedTuple):
    """A chat as the model reads it.

    Attributes
    ----------
    tokens
        Token ids.
    is_reasoning
        Whether the answer begins with thinking, for `OutputParser`.
    """

    tokens: list[int]
    is_reasoning: bool


def chat_prompt(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    enable_thinking: bool | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    **template_kwargs: Any,
) -> ChatPrompt:
    """Return the prompt of a chat.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`; it has the template.
    messages
        As in `normalize_messages`.
    tools
        OpenAI's tools, as in `normalize_tools`.
    enable_thinking : bool, optional
        Whether the model thinks before it answers; the template decides if not given.
    add_generation_prompt : bool
        Whether an answer of the assistant is begun.
    continue_final_message : bool
        Whether the last message is left open instead, its reasoning if it has no content yet.
    **template_kwargs
        Other variables of the template, such as `keep_all_reasoning`.

    Raises
    ------
    ValueError
        If a message or a tool is malformed, there is no template, or it fails.

    Notes
    -----
    Texts of messages, tools and variables never become special tokens (`SpecialTokenGuard`).
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
    messages, tools = normalize_messages(messages), normalize_tools(tools)
    if enable_thinking is not None:
        template_kwargs["enable_thinking"] = enable_thinking
    guard = SpecialTokenGuard(tokenizer, [messages, tools, template_kwargs])
    with named_errors(f"{_template_file(tokenizer)}: the chat template fails"):
        rendered = tokenizer.apply_chat_template(
            [_protect_message(guard, message) for message in messages],
            tools=guard.protect(tools) or None,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            continue_final_message=continue_final_message and _open_field(messages[-1]),
            tokenize=False,
            **guard.protect(template_kwargs),
        )
    token_T = guard.encode(rendered)
    return ChatPrompt(token_T, _is_reasoning(tokenizer, token_T))


def _protect_message(guard: SpecialTokenGuard, message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose texts are protected, but for its role: templates compare it."""
    return guard.protect(message) | {"role": message["role"]}


def _open_field(message: dict[str, Any]) -> str:
    is_thinking = message.get("reasoning_content") and not message["content"]
    return "reasoning_content" if is_thinking else "content"


def _is_reasoning(tokenizer: Any, token_T: Sequence[int]) -> bool:
    """Return whether the last turn leaves thinking open, for the model to begin or to end.

    Only the last turn counts: text before it may hold markers, also those of the template itself.
    """
    turn, think, think_end = map(tokenizer.added_tokens_encoder.get, (TURN, THINK, THINK_END))
    for token in reversed(token_T):
        if token in (think, think_end):
            return token == think
        if token == turn:
            break
    return think is not None and THINK in tokenizer.get_chat_template()


def _template_file(tokenizer: Any) -> Path:
    file = Path(tokenizer.name_or_path) / "chat_template.jinja"
    return file if file.is_file() else file.with_name("tokenizer_config.json")


def prompt_tokens(tokenizer: Any, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the token ids of a prompt; an empty text is `<|endoftext|>` alone.

    Parameters
    ----------
    tokenizer
        From `load_tokenizer`.
    prompt
        A text to continue, or the messages of a chat to answer, as in `chat_prompt`.

    Raises
    ------
    ValueError
        If the text holds a lone surrogate, or as `chat_prompt`.
    """
    if not isinstance(prompt, str):
        return chat_prompt(tokenizer, prompt).tokens
    return tokens(tokenizer, prompt, add_special_tokens=True) or [end_of_text(tokenizer)]
